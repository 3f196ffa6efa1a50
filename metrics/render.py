"""Renders a table for a terminal, and as Markdown, LaTeX and CSV."""

import csv
import io
import re
from dataclasses import dataclass, field

LEGEND = {
    "text": "¹ best, ² second best of all rows but the ground truth",
    "markdown": "Bold: best; italic: second best of all rows but the ground truth.",
    "latex": "Bold: best; underlined: second best of all rows but the ground truth.",
    "html": "Green: best; underlined: second best of all rows but the ground truth.",
}


@dataclass(frozen=True)
class Cell:
    """Text with a mark: "best", "second" or none."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Grid:
    """A titled table.

    Attributes:
        header: one text a column.
        rows: one cell a column in each.
        rule: index of the row above which a line is drawn, if any.
        notes: lines to print below.
    """

    title: str
    header: list[str]
    rows: list[list[Cell]]
    rule: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def marked(self) -> bool:
        return any(cell.mark for row in self.rows for cell in row)

    def footer(self, style: str) -> list[str]:
        return [*([LEGEND[style]] if self.marked else []), *self.notes]


def to_text(grid: Grid) -> str:
    """Aligned columns, the first to the left and the others to the right; a raised 1 or 2 marks best and second."""
    signs = {"": " ", "best": "¹", "second": "²"} if grid.marked else dict.fromkeys(("", "best", "second"), "")
    rows = [[cell.text + signs[cell.mark] for cell in row] for row in grid.rows]
    header = [text + signs[""] for text in grid.header]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(texts: list[str]) -> str:
        return "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(texts, widths, strict=True))
        ).rstrip()

    ruler = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [grid.title, ruler, line(header), ruler]
    for index, row in enumerate(rows):
        if index == grid.rule:
            lines.append(ruler)
        lines.append(line(row))
    return "\n".join([*lines, ruler, *grid.footer("text")])


def markdown(text: str) -> str:
    """`text` on one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))


def to_markdown(grid: Grid) -> str:
    """A Markdown table under a heading."""
    wrap = {"": "{}", "best": "**{}**", "second": "*{}*"}

    def line(texts: list[str]) -> str:
        return "| " + " | ".join(texts) + " |"

    lines = [f"## {markdown(grid.title)}", "", line([markdown(text) for text in grid.header])]
    lines.append(line(["---", *["---:"] * (len(grid.header) - 1)]))
    lines += [line([wrap[cell.mark].format(markdown(cell.text)) for cell in row]) for row in grid.rows]
    return "\n".join([*lines, "", *(f"- {markdown(note)}" for note in grid.footer("markdown")), ""])


_PAGE = 40  # rows

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "[": "{[}",  # at the start of a row, LaTeX takes a bare one for an argument of the line break
    "]": "{]}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def to_latex(grid: Grid) -> str:
    """A `table` with a `tabular` (booktabs) and its notes below; a `longtable` if its rows exceed a page."""
    wrap = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}

    def safe(text: str) -> str:
        return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))

    columns, caption = "l" + "r" * (len(grid.header) - 1), rf"\caption{{{safe(grid.title)}}}"
    head = [r"\toprule", " & ".join(safe(text) for text in grid.header) + r" \\", r"\midrule"]
    long = len(grid.rows) > _PAGE
    if long:
        lines = ["% needs the packages booktabs and longtable", rf"\begin{{longtable}}{{{columns}}}", caption + r" \\"]
        lines += [*head, r"\endhead"]
    else:
        lines = ["% needs the package booktabs", r"\begin{table}", caption, r"\centering"]
        lines += [rf"\begin{{tabular}}{{{columns}}}", *head]
    for index, row in enumerate(grid.rows):
        if index == grid.rule:
            lines.append(r"\midrule")
        lines.append(" & ".join(wrap[cell.mark].format(safe(cell.text)) for cell in row) + r" \\")
    notes = [rf"\par\footnotesize {safe(note)}" for note in grid.footer("latex")]
    end = [r"\end{longtable}", *notes] if long else [r"\end{tabular}", *notes, r"\end{table}"]
    return "\n".join([*lines, r"\bottomrule", *end, ""])


def to_csv(grid: Grid) -> str:
    """Header and rows, without marks and notes."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([grid.header, *([cell.text for cell in row] for row in grid.rows)])
    return out.getvalue()
