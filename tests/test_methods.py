"""Nothing is registered without a recipe, a test file, a page and a row in the README."""

import inspect
import re
from pathlib import Path

import pytest
from detectron2.modeling import META_ARCH_REGISTRY

import d2_unsupdet

ROOT = Path(__file__).resolve().parents[1]
OWN = [
    model
    for _, model in META_ARCH_REGISTRY
    if model.__module__.startswith(f"{d2_unsupdet.__name__}.")
]


def test_something_is_registered():
    assert "MoCoV2" in {model.__name__ for model in OWN}


@pytest.mark.parametrize("model", OWN, ids=lambda model: model.__name__)
def test_a_method_is_complete(model):
    file = Path(inspect.getfile(model))
    room, name = file.parent.name, file.stem
    assert (ROOT / "tests" / room / f"test_{name}.py").is_file()
    recipes = list((ROOT / "configs").rglob("*.py")) + list((ROOT / "configs").rglob("*.yaml"))
    assert any(re.search(rf"\b{model.__name__}\b", path.read_text()) for path in recipes)
    pages = [p for p in (ROOT / "docs/methods").glob("*.md") if model.__name__ in p.read_text()]
    assert pages
    readme = (ROOT / "README.md").read_text()
    assert any(f"docs/methods/{page.name}" in readme for page in pages)


def test_links_in_the_documents_lead_somewhere():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "datasets/README.md"]
    for document in documents:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
