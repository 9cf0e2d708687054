"""A run leaves a page about itself, and does not fail where it cannot."""

import logging

from d2_unsupdet.engine.own_report import leave_report
from tests.analysis.run_folders import make_run


def test_the_page_is_of_this_run(tmp_path):
    leave_report(make_run(tmp_path / "mine"))
    assert "<h1>Run mine</h1>" in (tmp_path / "mine/report.html").read_text()


def test_a_page_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    folder = make_run(tmp_path / "mine")
    (folder / "report.html").mkdir()
    with caplog.at_level(logging.WARNING, logger="d2_unsupdet.run"):
        leave_report(folder)
    assert "no report.html" in caplog.text
