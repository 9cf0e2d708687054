"""The tables of the papers as data, and the one command that reruns a row of them."""

from d2_unsupdet.protocols.rows import Paper, Recipe, Row, Table, papers, rows, select

__all__ = ["Paper", "Recipe", "Row", "Table", "papers", "rows", "select"]
