"""The commands of the pages about box pretexts: every option, config and key in them exists."""

import inspect
import re
import shlex
from pathlib import Path

import pytest
from detectron2.utils.registry import locate
from omegaconf import OmegaConf

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.priors.by_name import source_by_name
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("up_detr", "detreg", "siamese_detr", "join_det")
PAGES = (
    "README.md",
    "docs/own_data.md",
    "docs/priors.md",
    "docs/protocols.md",
    *(f"docs/methods/{name}.md" for name in METHODS),
)
KEY = re.compile(r"`((?:model|train|dataloader|optimizer)\.[\w.]+)`")


def commands(page: str) -> list[list[str]]:
    """The words of every `python FILE ...` in the page's bash blocks."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["python"] and words[1].endswith(".py"):
                found.append(words[1:])
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands(page)
    for script, *words in found:
        assert "..." not in words
        module = load_script(script)
        if not hasattr(module, "parse"):  # of datasets/
            continue
        args = module.parse(words)
        if script == "train_net.py" and not args.config_file.startswith(("out/", "output/")):
            load_config(args.config_file, [o for o in args.opts if "$" not in o])
        if script in ("tools/extract_priors.py", "tools/evaluate_boxes.py"):
            sources = [args.source] if isinstance(args.source, str) else args.source
            for source in sources:
                source_by_name(source.removesuffix(":model=model.yml.gz"))  # not in the repository
    assert len(found) >= 3


@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_keys_names_them_in_full(method):
    text = (ROOT / f"docs/methods/{method}.md").read_text()
    table = text.split("| key | default |")[1].split("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    keys = [key for cell in cells for key in KEY.findall(cell)]
    assert len(keys) > 5 and not any(re.search(r"`\.", cell) for cell in cells)
    recipes = ["deformable_detr", "dn_dab_deformable_detr"]
    configs = [
        load_config(str(ROOT / f"configs/pretrain/{method}/toy_{name}.py"), []) for name in recipes
    ]
    for key in keys:
        found = [OmegaConf.select(cfg, key, throw_on_missing=False) for cfg in configs]
        assert any(value is not None for value in found) or accepted(configs[0], key), key


def accepted(cfg, key: str) -> bool:
    """A value that the recipe leaves at its default: an argument of what is built there."""
    place, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, place)
    target = None if node is None else node.get("_target_")
    built = locate(target) if isinstance(target, str) else target
    return built is not None and name in inspect.signature(built).parameters
