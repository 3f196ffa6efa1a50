"""README.md and docs/: commands that their programs accept, files and names that exist, and the index of equations."""

import argparse
import ast
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
from documentation import PAGES, ROOT, page_commands, program
from omegaconf import OmegaConf

import training.config
from media.errors import Parser

COMMANDS = sorted({(page, shlex.join(words)) for page in PAGES for words in page_commands(page)})
PYTHON = [(page, command) for page, command in COMMANDS if command.startswith(("python ", "accelerate "))]
OURS = ("assets/", "configs/", "scripts/", "checkpoints/demo")  # paths that a command expects in the repository
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


class Accepted(Exception):
    """Raised once a command has read its arguments and config, in the place of its work."""


@pytest.mark.parametrize("page, command", PYTHON)
def test_a_command_is_accepted_by_its_program(page, command, monkeypatch, capsys):
    def parse_args(self: Parser, words: list[str] | None = None) -> argparse.Namespace:
        options = argparse.ArgumentParser.parse_args(self, words)
        if hasattr(options, "overrides"):  # a training: its settings are read next
            return options
        raise Accepted

    def read_and_stop(*arguments) -> None:
        read_config(*arguments)
        raise Accepted

    read_config = training.config.read_config
    module, arguments = program(shlex.split(command))
    main = importlib.import_module(module).main
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Parser, "parse_args", parse_args)
    monkeypatch.setattr(training.config, "read_config", read_and_stop)
    arguments = ["cpu" if word == "cuda" else word for word in arguments]  # refused where there is no GPU
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    try:
        status = main()
    except Accepted:
        return
    except SystemExit as exit:  # of --help
        status = exit.code
        if status == 0:
            return
    pytest.fail(f"{page}: `{command}` ends with {status}: {capsys.readouterr().err}")


@pytest.mark.parametrize("module", sorted({program(shlex.split(command))[0] for _, command in PYTHON}))
def test_every_program_that_a_page_names_has_help(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    with pytest.raises(SystemExit) as exit:
        importlib.import_module(module).main()
    assert exit.value.code == 0 and "usage" in capsys.readouterr().out


@pytest.mark.parametrize("page, command", COMMANDS)
def test_a_command_names_files_that_exist(page, command):
    named = {value for word in shlex.split(command) for value in (word, word.partition("=")[2])}
    assert [name for name in named if name.startswith(OURS) and not (ROOT / name).exists()] == [], page


def test_launched_processes_can_share_their_configs_batch():
    from accelerate.commands.launch import launch_command_parser

    launched = [words for page in PAGES for words in page_commands(page) if words[0] == "accelerate"]
    assert len(launched) >= 3
    for words in launched:
        assert launch_command_parser().parse_args(words[2:]).training_script
        processes, config = (words[words.index(option) + 1] for option in ("--num_processes", "--config"))
        batch_size = OmegaConf.load(ROOT / config).train.batch_size
        assert batch_size % int(processes) == 0, f"{processes} processes cannot share {config}'s {batch_size} windows"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_links_to_files_and_names_paths_that_exist(page):
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    paths = re.findall(r"`([a-z_\d]+/[a-z_\d/]+\.(?:py|yaml|md|sh|png))`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1800
