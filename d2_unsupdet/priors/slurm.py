"""An extraction as an array of Slurm jobs, through submitit where that is installed.

Each task runs the same function; they meet on the shared disk, so the array can be of any length,
and tasks that are preempted or die cost what was left of their shard.
"""

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from d2_unsupdet.availability import is_installed
from d2_unsupdet.errors import UserError

log = logging.getLogger(__name__)


def make_executor(logs: Path, settings: Mapping[str, Any], *, cluster: str = "slurm") -> Any:
    """A submitit executor.

    Args:
        logs: folder for the tasks' output; shared with the machines that run them.
        settings: submitit's parameters: timeout_min, cpus_per_task, slurm_partition, ...
        cluster: "slurm", or "local" for processes of this machine.
    """
    if not is_installed("submitit"):
        raise UserError("Slurm jobs are sent through submitit: `pip install submitit`.")
    submitit = importlib.import_module("submitit")  # optional, so nothing else imports it
    executor = submitit.AutoExecutor(folder=str(logs), cluster=cluster)
    executor.update_parameters(**settings)
    return executor


def run_array(executor: Any, task: Callable[[int], Any], tasks: int) -> None:
    """Send `task(0)` to `task(tasks - 1)` as one array and wait for all of them.

    A task that fails is said and left: the others take its shards.

    Args:
        executor: has `map_array(function, numbers)` that gives jobs with `job_id` and `result()`.
        task: importable, and small when pickled.
        tasks: length of the array.
    """
    jobs = executor.map_array(task, range(tasks))
    log.info("%d tasks are queued, the first as job %s.", tasks, jobs[0].job_id)
    failed = 0
    for job in jobs:
        try:
            job.result()
        except Exception as error:  # whatever ended the task on another machine
            failed += 1
            log.warning("Job %s failed: %s", job.job_id, str(error).strip().splitlines()[-1:])
    if failed == tasks:
        raise UserError(f"All {tasks} tasks failed; their output is in the executor's folder.")
