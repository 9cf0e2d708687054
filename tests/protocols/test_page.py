"""docs/reproduce.md is what the rows say, and its links lead somewhere."""

import json
import re

from d2_unsupdet.protocols import papers, rows, select
from d2_unsupdet.protocols.page import PAGE, anchors, page
from d2_unsupdet.protocols.scores import reference

TEXT = page(papers())


def test_the_page_is_that_of_the_rows():
    assert PAGE.read_text() == TEXT, "python tools/reproduce.py --docs writes it anew"


def test_every_row_stands_there_with_its_numbers():
    lines = {line.split("`")[1]: line for line in TEXT.splitlines() if line.startswith("| `")}
    for row in rows():
        cells = [cell.strip() for cell in lines[row.id].split("|")]
        assert all(text in cells for text in row.values.values()), row.id
        said = f"cited: {row.cited}" if row.cited else row.ours or "none"
        assert cells[-2] == said


def test_tables_are_rectangles():
    widths: set[int] = set()
    for line in [*TEXT.splitlines(), ""]:
        if line.lstrip().startswith("|"):
            widths.add(line.count("|"))
        else:
            assert len(widths) <= 1, line
            widths = set()


def test_a_second_heading_of_a_name_has_an_anchor_of_its_own():
    assert anchors(["VOC 07+12, 1 %", "VOC 07+12, 1 %", "R_0: a-b", "VOC"]) == [
        "voc-0712-1-",
        "voc-0712-1--1",
        "r_0-a-b",
        "voc",
    ]


def test_every_table_is_linked_under_its_paper():
    for paper in papers():
        begin, *tables = TEXT.split(f"\n## {paper.name}\n")[1].split("\n## ")[0].split("\n### ")
        assert [table.splitlines()[0] for table in tables] == [t.title for t in paper.tables]
        linked = re.findall(r"^\* \[(.*)\]\(#", begin, flags=re.MULTILINE)
        assert linked == [table.title for table in paper.tables] or len(tables) == 1


def test_numbers_of_tables_stand_before_their_titles():
    assert "\n### Tables 1 and 2: weights of the levels" in TEXT
    assert "\n### Table 6: most queries of one object" in TEXT


def test_rows_without_a_number_are_counted():
    (line,) = (line for line in TEXT.splitlines() if line.startswith("| [DUPR]"))
    rows = [
        row for paper in papers() if paper.name == "DUPR" for t in paper.tables for row in t.rows
    ]
    bare = sum(not row.values for row in rows)
    assert bare == 36 and line.split("|")[5].strip() == "36"


def test_the_reports_page_shows_what_a_row_leaves():
    (row,) = select("joindet-voc-joindet-coco")
    text = (PAGE.parent / "report.md").read_text()
    (shown,) = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    assert json.loads(shown) == reference(row)


def test_links_lead_to_files_and_headings():
    headings = [line.lstrip("# ") for line in TEXT.splitlines() if line.startswith("#")]
    targets = set(anchors(headings))
    assert len(targets) == len(headings)
    found = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(found) > 100
    for link in found:
        file, _, anchor = link.partition("#")
        if not file:
            assert anchor in targets, link
        elif not file.startswith("https://"):
            assert (PAGE.parent / file).resolve().is_file(), link


def test_lines_of_prose_are_short():
    long = [
        line
        for line in TEXT.splitlines()
        if len(line) > 122 and not line.lstrip().startswith("|") and "](" not in line
    ]
    assert not long, long
