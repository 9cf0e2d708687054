"""Teachers and banks that move after the optimizer step, not in the middle of a forward.

MoCo's order is: query forward, EMA of the key encoder, key forward, loss, enqueue, optimizer step.
Moving the EMA behind the optimizer step, where it sees the new weights, gives the same sequence of
numbers, lets all micro-batches of an accumulated step see one teacher and one bank, and makes a
step that is thrown away (non-finite loss) leave no trace.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class DeferredUpdates(nn.Module):
    """Base of a pretext whose `forward` only stores what should change; `commit()` changes it.

    A subclass calls `defer(bank=keys)` in its training forward and implements `apply_updates`::

        losses = pretext(batch)       # once, or k times under gradient accumulation
        sum(losses.values()).backward()
        optimizer.step()
        pretext.commit()              # or pretext.discard() when the step was not taken

    With `auto_commit` (the default) a loop that knows nothing of this still works: the next forward
    and `state_dict()` commit what is outstanding. Such a loop must not accumulate gradients over
    several forwards, because each forward then moves the teacher.
    """

    auto_commit = True

    def __init__(self) -> None:
        super().__init__()
        self._outstanding: list[dict[str, Tensor]] = []

    def defer(self, **keys: Tensor) -> None:
        """Store what one forward wants to enqueue, by the name of the bank."""
        self._outstanding.append({name: x.detach() for name, x in keys.items()})

    def commit(self) -> None:
        """Apply what the forwards since the last commit stored; nothing stored, nothing done."""
        if not self._outstanding:
            return
        outstanding, self._outstanding = self._outstanding, []
        self.apply_updates(outstanding)

    def discard(self) -> None:
        """Forget what is stored: the optimizer did not step."""
        self._outstanding = []

    def apply_updates(self, outstanding: Sequence[Mapping[str, Tensor]]) -> None:
        """One teacher update, and the keys of each forward in order. The subclass implements it."""
        raise NotImplementedError

    def start_forward(self) -> None:
        """To be called first in the subclass's forward."""
        if self.auto_commit:
            self.commit()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        if self.auto_commit:
            self.commit()
        return super().state_dict(*args, **kwargs)
