"""--help and docs/settings.md, which are read from the dataclasses' source, against the dataclasses themselves."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

import finetune_e2e
import train_face
import train_heatmap
import train_sync
from extensions import settings as further
from training.settings import REQUIRED, SCHEMAS, document, extensions, settings

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {f"{module.__name__}.py": module for module in (finetune_e2e, train_face, train_heatmap, train_sync)}
CASES = [(ROOT / script, schema) for script, schemas in SCHEMAS.items() for schema in schemas]
CASES += [(ROOT / "extensions/settings.py", kind) for case in CASES for kind in extensions(*case).values()]
HEAVY = ("torch", "mediapipe", "librosa", "torchvision", "transformers")


def flat(config: DictConfig, prefix: str = "") -> dict[str, object]:
    """The dotted keys of a structured config and their defaults; "required" for a missing one."""
    found: dict[str, object] = {}
    for key in map(str, config):
        name = f"{prefix}{key}"
        if OmegaConf.is_missing(config, key):
            found[name] = REQUIRED
        elif isinstance(config[key], DictConfig):
            found |= flat(config[key], f"{name}.")
        else:
            found[name] = config[key]
    return found


@pytest.mark.parametrize(("script", "schema"), CASES)
def test_the_settings_are_those_of_the_dataclasses_with_their_defaults(script, schema):
    config = flat(OmegaConf.structured(getattr(SCRIPTS.get(script.name, further), schema)))
    read = {each.name: each for each in settings(script, schema)}
    assert read.keys() == config.keys()
    for name, each in read.items():
        expected: Any = config[name]
        expected = list(expected) if OmegaConf.is_config(expected) else expected  # of a tuple too
        shown = REQUIRED if each.default == REQUIRED else OmegaConf.create(f"x: {each.default}").x
        if name == "train.precision":
            shown = each.default  # YAML takes a bare no for false, and `start` takes that for "no"
        assert shown == expected, name


@pytest.mark.parametrize(("script", "schema"), CASES)
def test_every_setting_says_what_it_means(script, schema):
    assert [each.name for each in settings(script, schema) if not each.meaning] == []


def test_help_lists_every_setting_and_the_shared_ones_once():
    shown = subprocess.run([sys.executable, "train_face.py", "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    lines = [line for line in shown.splitlines() if line.startswith("  ") and " = " in line]
    loop = [line for line in lines if line.startswith(("  data.", "  train."))]  # the same for both networks
    assert len(loop) == len(set(loop)) > 30
    for schema in SCHEMAS["train_face.py"]:
        for each in settings(ROOT / "train_face.py", schema):
            assert f"  {each.name}: {each.kind} = {each.default}" in lines


def test_docs_settings_is_the_page_that_the_dataclasses_give():
    assert (ROOT / "docs/settings.md").read_text() == document()


def commands() -> list[str]:
    """All scripts and modules that are run as commands."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]
    found = [path.relative_to(ROOT) for path in files if path.parent.name not in ("tests", "scripts")]
    found = [path for path in found if "\n    sys.exit(main())" in (ROOT / path).read_text()]
    return sorted(str(path) if len(path.parts) == 1 else f"-m {path.parts[0]}.{path.stem}" for path in found)


@pytest.mark.parametrize("command", commands())
def test_help_comes_before_the_libraries_that_are_slow_to_import(command):
    """`python -X importtime` lists what a command imports."""
    words = [sys.executable, "-X", "importtime", *command.split(), "--help"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith("usage:"), result.stderr[-2000:]
    imported = {
        line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines() if line.startswith("import time:")
    }
    assert "argparse" in imported or command in SCHEMAS
    assert not imported & set(HEAVY)
