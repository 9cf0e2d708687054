"""Start one process a device: our own spawn, or the environment that `torchrun` has set."""

import logging
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

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
        _initialise(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), local, "env://")
        try:
            return main(*args)
        finally:
            dist.destroy_process_group()
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
        mp.spawn(_child, nprocs=processes, args=(main, world, machine_rank * processes, url, args))
    except mp.ProcessExitedException as error:
        # The child has said what was wrong; a second traceback would bury it.
        raise SystemExit(error.exit_code) from None
    return None


def _child(
    local: int, main: Callable[..., Any], world: int, first: int, url: str, args: tuple
) -> None:
    _initialise(first + local, world, local, url)
    try:
        main(*args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        # Without the interpreter's clean-up, which could wait for ranks that hang in a collective.
        os._exit(USER_ERROR)
    dist.destroy_process_group()


def _initialise(rank: int, world: int, local: int, url: str) -> None:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    else:
        # Processes share the cores; more threads than cores slow everyone down.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // max(1, world)))
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=url, rank=rank, world_size=world, timeout=TIMEOUT
    )
    logging.getLogger(__name__).debug("rank %d of %d is up", rank, world)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
