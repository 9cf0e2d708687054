"""Pictures for the report: what a pretext sees at the start, what a detector finds at the end."""

from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.engine import HookBase

from d2_unsupdet.analysis.pictures import draw_predictions, draw_views, save_picture
from d2_unsupdet.data import DetectionMapper
from d2_unsupdet.data.loader import TestLoader
from d2_unsupdet.engine.hooks import averaged
from d2_unsupdet.engine.trainer import Trainer, unwrap
from d2_unsupdet.seeding import seeded


class PicturesHook(HookBase):
    """Draws some samples into the run folder; takes no random number from the run.

    Args:
        output: the run folder.
        count: pictures of each kind.
        evaluated: the test loader of a detector; None for a pretext.
        class_names: of that data set.
    """

    trainer: Trainer

    def __init__(
        self,
        output: Path,
        count: int,
        evaluated: TestLoader | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self.output, self.count = output, count
        self.evaluated, self.class_names = evaluated, class_names

    def before_train(self) -> None:
        plan, dataset = self.trainer.loader.plan, self.trainer.loader.dataset
        for position in plan[0][: self.count]:
            sample = dataset[position]
            if "views" not in sample:
                return
            caption = f"{Path(sample['file_name']).name}: two views and where they overlap"
            save_picture(self.output, "views", draw_views(sample), caption)

    def after_train(self) -> None:
        finished = self.trainer.iter >= self.trainer.length
        if finished and self.evaluated is not None:
            with seeded("pictures"), averaged(self.trainer):
                self._draw_predictions(self.evaluated)

    @torch.no_grad()
    def _draw_predictions(self, loader: TestLoader) -> None:
        dataset = loader.dataset
        model = unwrap(self.trainer.model).eval()
        labelled = DetectionMapper(is_train=True, augmentations=[])
        step = max(1, len(dataset) // self.count)
        for index in range(0, min(len(dataset), step * self.count), step):
            sample = dataset[index]
            if sample is None or "instances" not in (found := model([sample])[0]):
                continue
            truth = labelled(dataset.records[index])
            picture = draw_predictions(
                truth["image"],
                truth.get("instances"),
                found["instances"].to("cpu"),
                self.class_names,
                threshold=0.3,
            )
            save_picture(self.output, "predictions", picture, Path(sample["file_name"]).name)
        model.train()
