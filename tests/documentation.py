"""The commands that README.md and docs/ show, as lists of words."""

import itertools
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "checkpoints/demo/README.md",
    "extensions/README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
]
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def block_commands(block: str) -> list[list[str]]:
    """The commands of a code block, without comments, line continuations and assignments before a command."""
    commands = []
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and _ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        if words:
            commands.append(words)
    return commands


def section_commands(page: str, section: str) -> list[list[str]]:
    """The commands of a section's first code block."""
    text = (ROOT / page).read_text().split(f"# {section}\n")[1]
    found = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return block_commands(found[1])


def page_commands(page: str) -> list[list[str]]:
    """All commands of a page: those of its code blocks, and those that stand between backticks in a sentence."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", rest)]
    inline = [code for code in inline if re.match(r"(python|accelerate launch|bash) ", code)]
    return [words for block in [*blocks, *inline] for words in block_commands(block)]


def program(words: list[str]) -> tuple[str, list[str]]:
    """The module that a command with Python starts, through `accelerate launch` too, and the arguments that it gets."""
    if words[0] == "accelerate":
        words = ["python", *itertools.dropwhile(lambda word: not word.endswith(".py"), words)]
    if words[1] == "-m":
        return words[2], words[3:]
    return words[1].removesuffix(".py"), words[2:]
