"""What Detectron2 v0.6 (2021) needs to run on today's Python, NumPy, Pillow and PyTorch.

The list is the whole difference between the official v0.6 Python code and the wheel that
`install_detectron2` builds. Each entry must match exactly `count` times, so that a source
distribution that differs is noticed instead of half edited.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One textual replacement; `old=None` declares a new file."""

    file: str
    old: str | None
    new: str
    why: str
    count: int = 1


_NO_COMPILED_OPS = '''\
"""Stands where the compiled operators would be in this pure Python build of Detectron2."""

import torch


class _NotCompiled:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(
            f"The operator '{name}' is compiled code, which this pure Python build of Detectron2 "
            "does not have: build Detectron2 from its source repository to use it."
        )


_C = _NotCompiled()

# layers/nms.py calls this one through torch.ops, so it needs a registered name.
_library = torch.library.Library("detectron2", "FRAGMENT")
_library.define("nms_rotated(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
_library.impl("nms_rotated", lambda *args: _C.nms_rotated, "CompositeExplicitAutograd")
'''

_OPTIONAL_C = """\
try:
    from detectron2 import _C
except ImportError:
    from detectron2.utils.no_compiled_ops import _C
"""

_C_WHY = "the operators are not compiled here: import without them, name them when they are called"
_NP_WHY = "NumPy 1.24 removed its aliases of Python's own types"


def _optional_c(file: str) -> Edit:
    return Edit(file, "from detectron2 import _C\n", _OPTIONAL_C, _C_WHY)


EDITS = (
    # Pillow
    Edit(
        "detectron2/data/transforms/transform.py",
        "interp=Image.LINEAR",
        "interp=Image.BILINEAR",
        "Pillow 10 removed LINEAR, the old name of BILINEAR",
    ),
    # NumPy
    Edit("detectron2/evaluation/pascal_voc_evaluation.py", "np.bool)", "bool)", _NP_WHY, 2),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "np.int)", "int)", _NP_WHY, 2),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "np.float)", "float)", _NP_WHY, 5),
    Edit("detectron2/structures/masks.py", "np.bool)", "bool)", _NP_WHY, 3),
    Edit("detectron2/data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)", _NP_WHY),
    Edit("detectron2/data/build.py", "dtype=np.int\n", "dtype=int\n", _NP_WHY),
    Edit("detectron2/data/build.py", "dtype=np.int)", "dtype=int)", _NP_WHY),
    Edit("detectron2/utils/visualizer.py", "np.bool)", "bool)", _NP_WHY, 3),
    Edit("detectron2/utils/video_visualizer.py", "np.bool)", "bool)", _NP_WHY),
    # Python
    Edit(
        "detectron2/data/common.py",
        "self._rng.sample(self._fallback_candidates, k=1)",
        "self._rng.sample(sorted(self._fallback_candidates), k=1)",
        "Python 3.11 samples sequences only, not sets",
    ),
    # setuptools
    Edit(
        "detectron2/model_zoo/model_zoo.py",
        "import pkg_resources\n",
        "",
        "setuptools 81 removed pkg_resources",
    ),
    Edit(
        "detectron2/model_zoo/model_zoo.py",
        """pkg_resources.resource_filename(
        "detectron2.model_zoo", os.path.join("configs", config_path)
    )""",
        'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
        "setuptools 81 removed pkg_resources; the configs lie beside this file",
    ),
    # PyTorch
    Edit(
        "detectron2/engine/hooks.py",
        "torch.optim.lr_scheduler._LRScheduler",
        "torch.optim.lr_scheduler.LRScheduler",
        "PyTorch's own schedulers derive from the public class since 2.0: with the old name they "
        "are silently left out of every checkpoint",
        2,
    ),
    Edit(
        "detectron2/modeling/anchor_generator.py",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        "PyTorch warns at every start that the indexing will have to be named",
    ),
    Edit(
        "detectron2/export/__init__.py",
        "from .api import *\n",
        """\
try:
    import caffe2.proto.caffe2_pb2 as _caffe2
except ImportError:
    _caffe2 = None
if _caffe2 is not None:
    from .api import *
""",
        "PyTorch 2 no longer ships caffe2, and tracing and scripting do without it",
    ),
    # compiled operators
    Edit("detectron2/utils/no_compiled_ops.py", None, _NO_COMPILED_OPS, _C_WHY),
    _optional_c("detectron2/layers/deform_conv.py"),
    _optional_c("detectron2/layers/roi_align_rotated.py"),
    _optional_c("detectron2/layers/rotated_boxes.py"),
    Edit(
        "detectron2/evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        """\
try:
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
except ImportError:
    COCOeval_opt = COCOeval
""",
        "the fast COCO scores are compiled: fall back on pycocotools, which gives the same numbers",
    ),
    Edit(
        "detectron2/utils/collect_env.py",
        'data.append(("detectron2._C", f"not built correctly: {e}"))',
        'data.append(("detectron2._C", f"not built (pure Python wheel): {e}"))',
        "here the operators are left out on purpose; a bug report should say so",
    ),
)
