#!/usr/bin/env python
"""Draw a detector's predictions beside the ground truth, or alone on images of your own.

python tools/visualize.py output/run                       # its test set, its newest weights
python tools/visualize.py output/run --images my/folder --threshold 0.3
python tools/visualize.py configs/quickstart/finetune.py --weights model.safetensors
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from PIL import Image
from torch import nn

from d2_unsupdet.analysis.pictures import draw_predictions
from d2_unsupdet.checkpoint.checkpointer import newest_weights
from d2_unsupdet.checkpoint.load import load_weights
from d2_unsupdet.cli import run_tool
from d2_unsupdet.data import DetectionMapper, catalog
from d2_unsupdet.data.images import BadImage
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.run import build_model, prepare
from d2_unsupdet.errors import UserError


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN_OR_CONFIG", help="folder of a run, or config"
    )
    parser.add_argument(
        "--weights", help="weights of the whole detector; default: the run's newest"
    )
    parser.add_argument("--images", nargs="+", help="image files or folders; default: the test set")
    parser.add_argument(
        "--out", type=Path, help="folder for the pictures; default: RUN/predictions"
    )
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score that is drawn")
    parser.add_argument("--limit", type=int, default=20, help="how many images, evenly spread")
    parser.add_argument("--allow-unsafe", action="store_true", help="run code that weights bring")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides")
    return parser.parse_args(argv)


def load_model(cfg: Any, run: Path | None, weights: str | None, allow_unsafe: bool) -> nn.Module:
    """The detector with the given weights, or with the newest of the run."""
    model = build_model(cfg)
    if weights is not None:
        print(load_weights(model, weights, allow_missing=(), allow_unsafe=allow_unsafe))
        return model.eval()
    if run is None:
        raise UserError("There are no weights: a config holds none; give --weights FILE.")
    model.load_state_dict(newest_weights(run))
    return model.eval()


def find_records(cfg: Any, images: Sequence[str] | None) -> list[dict]:
    """Records of the test set, or unlabelled ones of files and folders."""
    if images is None:
        return catalog.get_dataset(cfg.dataloader.test.dataset.names)
    records: list[dict] = []
    for path in map(Path, images):
        if path.is_dir():
            records += catalog.get_dataset(f"folder:{path.resolve()}")
        elif path.is_file():
            records.append({"file_name": str(path), "image_id": str(path)})
        else:
            raise UserError(f"There is no image or folder '{path}'.")
    return records


def spread(records: Sequence[dict], limit: int) -> list[dict]:
    """At most `limit` of them, evenly spaced, the first included."""
    count = min(limit, len(records))
    return [records[i * len(records) // count] for i in range(count)]


@torch.no_grad()
def draw(
    model: nn.Module, mapper: Any, records: Sequence[dict], names: Sequence[str], threshold: float
) -> Iterator[tuple[str, Any]]:
    """(file name, picture) of every image that can be read; says which cannot."""
    for record in records:
        masks = any("segmentation" in a for a in record.get("annotations", ()))
        labelled = DetectionMapper(is_train=True, augmentations=[], use_instance_mask=masks)
        try:
            sample, truth = mapper(dict(record)), labelled(dict(record))
        except BadImage as error:
            print(f"left out: {error.path}: {error.reason}")
            continue
        output = model([sample])[0]
        if "instances" not in output:
            raise UserError(f"{type(model).__name__} predicts no boxes; this draws detectors only.")
        found = output["instances"].to("cpu")
        picture = draw_predictions(truth["image"], truth.get("instances"), found, names, threshold)
        yield record["file_name"], picture


def main(argv: Sequence[str] | None = None) -> None:
    """Read, predict, draw, say where."""
    args = parse(argv)
    run = args.run if args.run.is_dir() else None
    config = args.run / "config.yaml" if run is not None else args.run
    cfg = load_config(str(config), [*args.set, "train.init_checkpoint="])
    if cfg.dataloader.get("test") is None:
        raise UserError(f"{config} has no dataloader.test; it is not that of a detector.")
    cfg = prepare(cfg, eval_only=True)
    records = spread(find_records(cfg, args.images), args.limit)
    model = load_model(cfg, run, args.weights, args.allow_unsafe)
    names = catalog.class_names(cfg.dataloader.test.dataset.names)
    out = args.out or (run or Path("output")) / "predictions"
    out.mkdir(parents=True, exist_ok=True)
    mapper = instantiate(cfg.dataloader.test.mapper)
    count = 0
    for file_name, picture in draw(model, mapper, records, names, args.threshold):
        Image.fromarray(picture).save(out / f"{count:04d}_{Path(file_name).stem}.png")
        count += 1
    print(f"{count} pictures in {out}")


if __name__ == "__main__":
    run_tool(main)
