"""Pictures for the report: what a pretext sees at the start, what a detector finds at the end."""

from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.config import instantiate
from omegaconf import DictConfig

from d2_unsupdet.analysis.pictures import draw_predictions, draw_views, save_picture
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.trainer import Trainer, unwrap
from d2_unsupdet.seeding import seeded


class PicturesHook(HookBase):
    """Draws `train.pictures` samples into the run folder; draws nothing random from the run.

    Args:
        cfg: the run's config.
        output: the run folder.
    """

    trainer: Trainer

    def __init__(self, cfg: DictConfig, output: Path) -> None:
        self.cfg, self.output, self.count = cfg, output, cfg.train.pictures

    def before_train(self) -> None:
        plan, dataset = self.trainer.loader.plan, self.trainer.loader.dataset
        if (self.output / "pictures").exists():
            return
        for position in plan[0][: self.count]:
            sample = dataset[position]
            if "views" not in sample:
                return
            caption = f"{Path(sample['file_name']).name}: two views and where they overlap"
            save_picture(self.output, "views", draw_views(sample), caption)

    def after_train(self) -> None:
        finished = self.trainer.iter >= self.trainer.max_iter
        if finished and self.cfg.dataloader.get("test") is not None:
            self._draw_predictions()

    @torch.no_grad()
    def _draw_predictions(self) -> None:
        loader = instantiate(self.cfg.dataloader.test)
        names = catalog.class_names(self.cfg.dataloader.test.dataset.names)
        model = unwrap(self.trainer.model).eval()
        records = loader.dataset.records
        step = max(1, len(records) // self.count)
        with seeded("pictures"):
            for index in range(0, min(len(records), step * self.count), step):
                sample = loader.dataset[index]
                if sample is None:
                    continue
                found = model([sample])[0]
                if "instances" not in found:
                    return
                record = records[index]
                picture = draw_predictions(record, found["instances"].to("cpu"), names or ())
                caption = f"{Path(record['file_name']).name}: labels left, predictions right"
                save_picture(self.output, "predictions", picture, caption)
        model.train()
