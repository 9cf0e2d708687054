"""Start one process a device: our own spawn, or the environment that `torchrun` has set."""

import os
import socket
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from d2_unsupdet.cli import USER_ERROR
from d2_unsupdet.errors import UserError

# A rank that fails tells the others at once; the timeout only bounds a dead machine.
TIMEOUT = timedelta(minutes=30)


def launch(
    main: Callable[..., Any],
    *,
    processes: int,
    machines: int = 1,
    machine_rank: int = 0,
    url: str = "auto",
    args: tuple = (),
) -> Any:
    """Run `main(*args)` in `processes` processes on each machine (gloo without CUDA, else NCCL).

    Args:
        main: importable function.
        processes: GPUs of this machine to use; without CUDA, CPU processes.
        machines: machines in the run.
        machine_rank: which of them this is.
        url: where rank 0 listens; "auto" picks a free local port on one machine.
        args: for main.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:  # torchrun
        local = int(os.environ.get("LOCAL_RANK", 0))
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        world = int(os.environ["WORLD_SIZE"])
        _initialise(int(os.environ["RANK"]), world, local, beside, "env://")
        return _finish(main, args)
    world = processes * machines
    if world <= 1:
        return main(*args)
    if url == "auto":
        if machines > 1:
            raise UserError("--dist-url must name rank 0's address when --num-machines is over 1.")
        url = f"tcp://127.0.0.1:{_free_port()}"
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus {processes}: this machine has {torch.cuda.device_count()} of them."
        )
    try:
        place = world, machine_rank * processes, processes
        mp.spawn(_child, nprocs=processes, args=(main, place, url, args))
    except mp.ProcessExitedException as error:
        # The child has said what was wrong; a second traceback would bury it.
        raise SystemExit(error.exit_code) from None
    return None


def _child(
    local: int, main: Callable[..., Any], place: tuple[int, int, int], url: str, args: tuple
) -> None:
    world, first, beside = place
    _initialise(first + local, world, local, beside, url)
    _finish(main, args)


def _finish(main: Callable[..., Any], args: tuple) -> Any:
    try:
        result = main(*args)
    except UserError as error:
        if os.environ.get("D2_UNSUPDET_DEBUG"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr, flush=True)
        # Without the interpreter's clean-up, which could wait for ranks that hang in a collective.
        os._exit(USER_ERROR)
    dist.destroy_process_group()
    return result


def _initialise(rank: int, world: int, local: int, beside: int, url: str) -> None:
    """Join the group as `rank` of `world`, the `local`-th of `beside` processes on this machine."""
    os.environ["LOCAL_WORLD_SIZE"] = str(beside)  # torchrun's name; the loaders read it
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    else:
        # Processes share the cores; more threads than cores slow everyone down.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // beside))
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=url, rank=rank, world_size=world, timeout=TIMEOUT
    )
    if hasattr(comm, "create_local_process_group"):  # Detectron2 after v0.6 insists on it
        comm.create_local_process_group(beside)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
