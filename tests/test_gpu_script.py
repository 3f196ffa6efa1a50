"""benchmarks/gpu.sh in its small form: the parts run, and what is skipped or unknown is said."""

import subprocess

import pytest
from conftest import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "benchmarks/gpu.sh", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_an_unknown_option_is_refused(tmp_path):
    done = run("--bogus")
    assert done.returncode == 2 and done.stderr.startswith("usage: bash benchmarks/gpu.sh") and not done.stdout


def test_skipped_parts_do_not_run(tmp_path):
    done = run("--small", "--output", str(tmp_path), "--skip", "networks,training,scripts,memory,dub,prepared,live")
    assert done.returncode == 0 and done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["networks", "training", "scripts", "memory", "dub", "prepared", "live"])
def test_a_part_prints_its_table(part, tmp_path):
    parts = ["networks", "training", "scripts", "memory", "dub", "prepared", "live"]
    done = run("--small", "--output", str(tmp_path), "--skip", ",".join(name for name in parts if name != part))
    assert done.returncode == 0, done.stdout
    assert f"({part}: " in done.stdout and len((tmp_path / f"{part}.txt").read_text().splitlines()) > 2
