"""The index of equations (docs/equations.md) names code that exists and cites the equation."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EQUATIONS = {"STSA": range(1, 11), "G4G": range(1, 18)}


def index() -> list[tuple[str, int, str, str]]:
    """The rows of docs/equations.md, one a name: paper, equation, file, name."""
    rows = []
    for section in (ROOT / "docs/equations.md").read_text().split("\n## ")[1:]:
        paper = section.splitlines()[0]
        for equation, file, names in re.findall(r"^\| (\d+) \|[^|]*\| `([^`]+)` \| (.*) \|$", section, re.MULTILINE):
            rows += [(paper, int(equation), file, name) for name in re.findall(r"`([^`]+)`", names)]
    return rows


def definitions(path: Path) -> tuple[str, dict[str, str]]:
    """The docstrings of a file: the module's, and its classes', functions' and methods' by dotted name."""
    module = ast.parse(path.read_text())
    found = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                found[prefix + child.name] = ast.get_docstring(child) or ""
            if isinstance(child, ast.ClassDef):
                visit(child, f"{prefix}{child.name}.")

    visit(module, "")
    return ast.get_docstring(module) or "", found


def cited(docstring: str) -> set[int]:
    """The equations that a docstring cites: "eq. 7", "Eq. 1, 2", "eq. 3 and 4", "eq. 6-10"."""
    equations = set()
    for numbers in re.findall(r"\b[Ee]q\. (\d+(?:(?:-|, | and )\d+)*)", docstring):
        for part in re.split(r", | and ", numbers):
            first, _, last = part.partition("-")
            equations |= set(range(int(first), int(last or first) + 1))
    return equations


@pytest.mark.parametrize("paper", EQUATIONS)
def test_the_index_has_every_equation(paper):
    assert {equation for of, equation, _, _ in index() if of == paper} == set(EQUATIONS[paper])


@pytest.mark.parametrize("paper, equation, file, name", index())
def test_the_index_names_code_that_cites_the_equation(paper, equation, file, name):
    assert (ROOT / file).is_file(), f"docs/equations.md names {file}, which is not there"
    module, docstrings = definitions(ROOT / file)
    assert name in docstrings, f"docs/equations.md names {name}, which {file} does not define"
    assert equation in cited(docstrings[name]) | cited(module), f"neither {name} nor {file} cites eq. {equation}"
