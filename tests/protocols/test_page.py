"""docs/reproduce.md is what the rows say, and its links lead somewhere."""

import re

from d2_unsupdet.protocols import papers, rows
from d2_unsupdet.protocols.page import PAGE, page

TEXT = page(papers())


def test_the_page_is_that_of_the_rows():
    assert PAGE.read_text() == TEXT, "python tools/reproduce.py --docs writes it anew"


def test_every_row_stands_there_with_its_numbers():
    lines = {line.split("`")[1]: line for line in TEXT.splitlines() if line.startswith("| `")}
    for row in rows():
        cells = [cell.strip() for cell in lines[row.id].split("|")]
        assert all(text in cells for text in row.values.values()), row.id
        said = f"cited: {row.cited}" if row.cited else row.ours or "not run"
        assert cells[-2] == said


def test_tables_are_rectangles():
    widths: set[int] = set()
    for line in [*TEXT.splitlines(), ""]:
        if line.lstrip().startswith("|"):
            widths.add(line.count("|"))
        else:
            assert len(widths) <= 1, line
            widths = set()


def test_links_lead_to_files_and_headings():
    anchors = {
        re.sub(r"[^a-z0-9 _-]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    found = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(found) > 100
    for link in found:
        file, _, anchor = link.partition("#")
        if not file:
            assert anchor in anchors, link
        elif not file.startswith("https://"):
            assert (PAGE.parent / file).resolve().is_file(), link


def test_lines_of_prose_are_short():
    long = [
        line
        for line in TEXT.splitlines()
        if len(line) > 122 and not line.lstrip().startswith("|") and "](" not in line
    ]
    assert not long, long
