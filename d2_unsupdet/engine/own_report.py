"""The page about a run that the run itself leaves; others make pages of several runs."""

import logging
from pathlib import Path

from d2_unsupdet.analysis.report import write_report

logger = logging.getLogger("d2_unsupdet.run")


def leave_report(output: Path) -> None:
    """Write report.html of this run; a run that went well does not fail over a page about it."""
    try:
        path = write_report([output], output / "report.html")
    except Exception as error:  # a full disk, a picture of another program: the weights are there
        logger.warning("no report.html: %s: %s", type(error).__name__, error)
    else:
        logger.info("report: %s", path)
