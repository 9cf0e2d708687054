"""Weights by the name of a repository: `hub:owner/name[@revision]`, through huggingface_hub.

The prefix is the consent: nothing else in the package reaches the network for weights. Files stay
in huggingface_hub's own cache, so HF_HOME, HF_HUB_OFFLINE and access tokens work as usual.
"""

import functools
import logging
import re
from pathlib import Path

from d2_unsupdet.availability import is_installed
from d2_unsupdet.errors import UserError

log = logging.getLogger(__name__)

PREFIX = "hub:"
FILES = ("model.safetensors", "config.yaml", "manifest.json")
_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def parse_name(text: str) -> tuple[str, str | None]:
    """`hub:owner/name@revision` as (owner/name, revision or None)."""
    match = _NAME.fullmatch(text.removeprefix(PREFIX))
    if match is None:
        raise UserError(
            f"'{text}' names no repository: write hub:owner/name, or hub:owner/name@revision with "
            "a tag, a branch or a commit."
        )
    return match[1], match[2]


@functools.cache
def fetch(text: str) -> Path:
    """The folder of the repository's files, fetched unless the cache has them; once a process."""
    name, revision = parse_name(text)
    if not is_installed("huggingface_hub"):
        raise UserError(
            f"'{text}' is on the Hugging Face hub, and huggingface_hub is not installed: "
            "pip install huggingface_hub, or fetch the folder yourself and give its path."
        )
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=list(FILES))
    except Exception as error:  # its own errors, those of its HTTP client, the disk's
        raise UserError(_sentence(text, name, revision, error)) from error
    log.info("%s is in %s", text, folder)
    return Path(str(folder))


def _sentence(text: str, name: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return f"'{text}': {name} has no revision '{revision}'; name one of its tags or commits."
    if isinstance(error, errors.GatedRepoError):
        return f"'{text}': {name} asks for its owner's permission; get it on the hub and log in."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"'{text}': the hub knows no repository {name}, or it is private; mend the name, or "
            "log in by `hf auth login`."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"'{text}' cannot be fetched and is not in the cache: the hub is out of reach or "
            "HF_HUB_OFFLINE is set; connect once, or give the path of a copy."
        )
    lines = str(error).strip().splitlines()
    first = lines[0][:160] if lines else "no reason given"
    return f"'{text}' cannot be fetched ({type(error).__name__}: {first}); try again later."
