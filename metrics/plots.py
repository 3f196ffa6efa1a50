"""What the commands that draw figures share: the figure's file, what is drawn in it, and names letter by letter."""

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

from media.errors import Parser

SUFFIXES = (".png", ".pdf", ".svg", ".jpg")


def add_figure(parser: Parser, default: str) -> None:
    """Give a command its `--output`, a figure's file."""

    def figure(text: str) -> Path:
        if Path(text).suffix.lower() not in SUFFIXES:
            raise argparse.ArgumentTypeError(f"{text} must end in one of {' '.join(SUFFIXES)}; rename it")
        return Path(text)

    parser.add_argument("--output", type=figure, default=Path(default), help=f"figure: {' '.join(SUFFIXES)}")


def plain_text(**settings) -> AbstractContextManager:
    """While it is open, matplotlib draws texts as they are: a `$` in a file's name is no formula.

    Args:
        settings: further rc parameters, "." written as "__".
    """
    import matplotlib

    return matplotlib.rc_context(
        {"text.parse_math": False} | {name.replace("__", "."): value for name, value in settings.items()}
    )


def legend_label(name: str) -> str:
    """`name` for a legend, which leaves out what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name
