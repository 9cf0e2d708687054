"""Write `*_labelTrainIds.png` beside the `*_labelIds.png` of the Cityscapes download.

Needed once for the semantic task: python datasets/prepare_cityscapes.py <folder with gtFine>
"""

import sys
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, installed or not

from d2_unsupdet.cli import Parser, run_tool
from d2_unsupdet.data.images import read_label_map
from d2_unsupdet.data.readers.cityscapes import train_ids


def prepare(root: Path) -> int:
    """Write the missing maps of all splits; return how many label files were found."""
    files = sorted(root.glob("gtFine/*/*/*_gtFine_labelIds.png"))
    for file in files:
        target = file.with_name(file.name.replace("labelIds", "labelTrainIds"))
        if not target.exists():
            done, data = cv2.imencode(".png", train_ids(read_label_map(file)))
            assert done
            part = target.with_suffix(".part")
            part.write_bytes(data.tobytes())
            part.rename(target)
    return len(files)


def main() -> None:
    """Command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("root", type=Path, help="the folder that holds gtFine")
    root = parser.parse_args().root
    count = prepare(root)
    if not count:
        parser.error(f"{root} holds no gtFine/<split>/<city>/*_gtFine_labelIds.png")
    print(f"{count} label maps are ready below {root}/gtFine")


if __name__ == "__main__":
    run_tool(main)
