"""Parts of the box pretexts beside golden files: attention mask, box jitter, normalised cut."""

import re
from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage

from d2_unsupdet.detectors.structures import Queries, group_of
from d2_unsupdet.parity.compare import Aside, Row, compare
from d2_unsupdet.parity.golden import Golden
from d2_unsupdet.pretext.box_jitter import jitter_boxes
from d2_unsupdet.priors.normalized_cut import normalized_cut
from d2_unsupdet.priors.region_boxes import CellMask, region_boxes

_UNSEEN = "queries whom the original lets see nobody, not even themselves; ours see their group"


def attention_masks(golden: Golden) -> Iterator[Row | Aside]:
    """Queries see those of their own patch; the original's loop makes N / M blocks instead of M."""
    for name, allowed in golden.arrays.items():
        found = re.fullmatch(r"mask\.q(\d+)\.p(\d+)", name)
        if found is None:
            continue
        queries, patches = int(found[1]), int(found[2])
        group = group_of(queries, patches, torch.device("cpu"))
        blocked = Queries(torch.zeros(1, queries, 1), group=group).attention_mask()
        assert blocked is not None
        made = allowed.any(1)  # the others have no partner there
        if made.all():
            yield compare(name, "exact", ~blocked, allowed)
        else:
            yield Aside(name, _UNSEEN)
            yield compare(f"{name}.made", "exact", ~blocked[made], allowed[made])


def box_jitter(golden: Golden) -> Iterator[Row]:
    """Both views of all images at once."""
    a = golden.arrays
    boxes, sizes = a["boxes_in"], a["sizes_hw"]
    noise = a["noise"].view(boxes.shape)  # image by image, in each the first view first
    moved = jitter_boxes(boxes, sizes[:, None].expand(-1, 2, -1), noise)
    for view in (0, 1):
        name = f"boxes_view{view + 1}_out"
        yield compare(name, "values", moved[:, view], a[name])


def token_cut(golden: Golden) -> Iterator[Row]:
    """Eigenvector, seed, components of the foreground, and the seed's component as mask and box."""
    a = golden.arrays
    for case in sorted({name.partition(".")[0] for name in a}):
        rows, columns, _, tau, no_binary, patch, height, width = a[f"{case}.params"].tolist()
        shape = int(rows), int(columns)
        cut = normalized_cut(a[f"{case}.feat"].numpy(), tau=tau, binary=not no_binary)
        objects, _ = ndimage.label(cut.foreground.reshape(shape))
        seed = np.unravel_index(cut.seed, shape)
        mask = objects == objects[seed]
        cells = CellMask(mask, (patch, patch), (int(height), int(width)))
        for name, kind, ours in (
            ("eigvec", "values", cut.vector.reshape(shape)),
            ("seed", "exact", np.int64(cut.seed)),
            ("objects", "exact", objects),
            ("mask", "exact", mask),
            ("pred_box", "exact", region_boxes(cells)[0]),
        ):
            made = torch.from_numpy(np.array(ours))
            yield compare(f"{case}.{name}", kind, made, a[f"{case}.{name}"])
