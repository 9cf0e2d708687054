"""Runs a function in several CPU processes joined by gloo, for tests."""

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_CHILD = """
import importlib.util, os, pickle, sys
import torch, torch.distributed as dist
file, name, rank, world, port, folder = sys.argv[1:]
torch.set_num_threads(1)
dist.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=int(rank), world_size=int(world)
)
from detectron2.utils import comm
if hasattr(comm, "create_local_process_group"):
    comm.create_local_process_group(int(world))
spec = importlib.util.spec_from_file_location("rank_functions", file)
module = importlib.util.module_from_spec(spec)
sys.modules["rank_functions"] = module
spec.loader.exec_module(module)
args = pickle.load(open(f"{folder}/args", "rb"))
result = getattr(module, name)(int(rank), *args)
torch.save(result, f"{folder}/result{rank}")
dist.barrier()  # nobody leaves while another still talks
dist.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # gloo's threads can abort an interpreter that ends within milliseconds
"""


def run_ranks(function: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """`function(rank, *args)` in `world` processes; their results (tensors, dicts) in rank order.

    The function must stand at the top level of its file; the arguments and results are pickled.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "args").write_bytes(pickle.dumps(args))
        port = _free_port()
        file = function.__code__.co_filename
        children = [
            subprocess.Popen(
                [sys.executable, "-c", _CHILD, file, function.__name__]
                + [str(x) for x in (rank, world, port, folder)],
                env={**os.environ, "PYTHONPATH": _path(), "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        errors = [child.communicate(timeout=120)[1] for child in children]
        for child, error in zip(children, errors, strict=True):
            assert child.returncode == 0, error
        files = [Path(folder, f"result{rank}") for rank in range(world)]
        return [torch.load(file, weights_only=True) for file in files]


def _path() -> str:
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
