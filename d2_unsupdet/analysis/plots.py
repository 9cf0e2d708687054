"""What every figure of `tools/analyze.py` has in common; matplotlib without a screen."""

import io
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import torch

from d2_unsupdet.analysis.lettering import written
from d2_unsupdet.analysis.pictures import to_rgb
from d2_unsupdet.availability import is_installed
from d2_unsupdet.checkpoint.files import atomic_write
from d2_unsupdet.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
# the lines' colours of the run report
COLOURS = (
    "#1d5fbf", "#c2530a", "#0b7a5f", "#9b2fae", "#a8730a", "#c0264e", "#3d7d12", "#50607a",
)  # fmt: skip
INK, DIM, MARK = "#1b2330", "#5a6577", "#ffb000"
_STYLE: Any = {
    "font.size": 9.5, "axes.titlesize": 9.5, "figure.titlesize": 9.5, "axes.edgecolor": "#9da8ba",
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": DIM, "ytick.color": DIM,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False,
    "legend.frameon": False,
}  # fmt: skip


def styled(draw: Callable[P, "Figure"]) -> Callable[P, "Figure"]:
    """Draw in the common style, and leave the style of whoever imports us as it is."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        require_matplotlib()
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapped


def require_matplotlib() -> None:
    """Raise a UserError that says how to get it, if it is not there."""
    if not is_installed("matplotlib"):
        raise UserError("Figures need matplotlib; run pip install 'd2_unsupdet[figures]'.")


def axes_grid(
    size: tuple[float, float], rows: int, columns: int, title: str = "", **options: Any
) -> tuple["Figure", np.ndarray]:
    """A figure of (width, height) inches with axes (rows, columns), never on a screen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def show_image(
    axis: Any, image: "np.ndarray | torch.Tensor", title: str = "", color: str = INK
) -> None:
    """An image without ticks; its pixel (x, y) covers [x, x + 1] x [y, y + 1]."""
    rgb = to_rgb(image)
    height, width = rgb.shape[:2]
    axis.imshow(rgb, extent=(0, width, height, 0))
    bare(axis)
    if title:
        axis.set_title(title, color=color)


def bare(axis: Any) -> None:
    """No ticks, no frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def draw_box(axis: Any, box: Sequence[float], color: str = MARK, width: float = 2) -> None:
    """One XYXY box with a dark rim, visible on any ground."""
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = (float(v) for v in box)
    for edge, line in ((INK, width + 1.5), (color, width)):
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=edge, lw=line))


def save(figure: "Figure", path: Path, dpi: int = 110) -> None:
    """Write a PNG atomically; a label is text, of which no formula is made and nothing lost."""
    from matplotlib.text import Text

    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    powers = [x for a in axes if a.get_scale() == "log" for x in a.get_ticklabels(which="both")]
    texts: set[Any] = set(figure.findobj(Text))  # its stub says artists, which have no text
    for label in texts - set(powers):  # those are formulas
        lines = label.get_text().split("\n")
        label.set(text="\n".join(map(written, lines)), parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    atomic_write(path, lambda file: file.write(buffer.getvalue()))
