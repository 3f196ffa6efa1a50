"""What `pip install -e .` installs: every folder and script, and no library that requirements.txt does not pin."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def library(requirement: str) -> str:
    """The name of a requirement, in the spelling of PEP 503."""
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_every_folder_and_script_with_code_is_installed():
    tool = PROJECT["tool"]["setuptools"]
    scripts = {path.stem for path in ROOT.glob("*.py")}
    folders = {path.parent.name for path in ROOT.glob("*/*.py")} - {"tests", "scripts", "build"}
    assert set(tool["py-modules"]) == scripts
    assert set(tool["packages"]) == folders
    known = PROJECT["tool"]["ruff"]["lint"]["isort"]["known-first-party"]
    assert folders <= set(known)


@pytest.mark.parametrize("extra", ["", "train", "dub", "metrics", "web", "dev"])
def test_every_library_is_pinned_in_requirements(extra):
    project = PROJECT["project"]
    wanted = project["optional-dependencies"][extra] if extra else project["dependencies"]
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    pinned = {library(line) for line in lines if "==" in line}
    assert {library(requirement) for requirement in wanted} <= pinned


def test_the_licence_and_the_papers_are_named():
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
    citation = (ROOT / "CITATION.cff").read_text()
    assert "2503.23039" in citation and "2402.18122" in citation
    for name in PROJECT["project"]["license-files"]:
        assert (ROOT / name).is_file()
