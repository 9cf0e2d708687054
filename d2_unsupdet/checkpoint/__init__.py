"""Weights: read safely, write atomically, convert between layouts, load with a report."""

from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.checkpoint.convert import ConversionReport, IncompleteError, convert
from d2_unsupdet.checkpoint.export import export_weights, write_weights
from d2_unsupdet.checkpoint.files import (
    Digest,
    LoadedFile,
    atomic_write,
    check_exists,
    read_weights,
    sha256,
    write_json,
)
from d2_unsupdet.checkpoint.formats import FORMATS, detect, get_format
from d2_unsupdet.checkpoint.layout import Format
from d2_unsupdet.checkpoint.load import load_weights, match_names
from d2_unsupdet.checkpoint.report import LoadReport

__all__ = [
    "FORMATS",
    "ConversionReport",
    "Digest",
    "Format",
    "IncompleteError",
    "LoadReport",
    "LoadedFile",
    "RunCheckpointer",
    "atomic_write",
    "check_exists",
    "convert",
    "detect",
    "export_weights",
    "get_format",
    "load_weights",
    "match_names",
    "read_weights",
    "sha256",
    "write_json",
    "write_weights",
]
