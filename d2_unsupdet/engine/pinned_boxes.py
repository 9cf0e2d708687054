"""Stored boxes that a run trains on: one generation from its first step to its last.

A store may get another generation while a run reads it, or lose one before a resume. What the run
began with is therefore chosen once, named in every checkpoint, and asked for again by its hash.
"""

import logging
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from d2_unsupdet.engine.refresh import NOTE
from d2_unsupdet.engine.trainer import Trainer
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.stored import StoredBoxes

logger = logging.getLogger(__name__)


class PinnedBoxesHook(HookBase):
    """Fixes the generation of a mapper's `StoredBoxes`; other sources are left alone."""

    trainer: Trainer

    def before_train(self) -> None:
        mapper: Any = self.trainer.loader.dataset.mapper
        source, known = getattr(mapper, "source", None), self.trainer.notes.get(NOTE)
        if not isinstance(source, StoredBoxes):
            if known is not None:
                del self.trainer.notes[NOTE]
                logger.warning("the checkpoint was trained on stored boxes; from here on it is not")
            return
        if known is None:
            # The first rank's: another may have seen one that was published a moment later.
            found = source.generation
            known = comm.all_gather({"generation": found.number, "sha256": found.sha256})[0]
            if self.trainer.start_iter:
                logger.warning("the checkpoint names no boxes: the run takes the store's")
        elif source.number not in (None, known["generation"]):
            raise UserError(
                f"The checkpoint was trained on generation {known['generation']} of the boxes and "
                f"the config asks for generation={source.number} of {source.path}: take the "
                "checkpoint's, or start the run anew."
            )
        found = source.pinned(known["generation"], known["sha256"]).generation
        # Another one, which nothing has opened yet: every worker compares the hash itself.
        mapper.source = source.pinned(known["generation"], known["sha256"])
        self.trainer.notes[NOTE] = known
        logger.info("boxes: %s, sha256 %s", found.folder, found.sha256[:16])
