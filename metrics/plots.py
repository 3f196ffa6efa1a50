"""Shared by the commands that draw figures: the option `--output`, literal text and legend labels."""

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

from media.errors import Parser

SUFFIXES = (".png", ".pdf", ".svg", ".jpg")


def add_figure(parser: Parser, default: str) -> None:
    """Add the option `--output`, a figure's file, to `parser`."""

    def figure(text: str) -> Path:
        if Path(text).suffix.lower() not in SUFFIXES:
            raise argparse.ArgumentTypeError(f"{text} must end in one of {' '.join(SUFFIXES)}; rename it")
        return Path(text)

    parser.add_argument("--output", type=figure, default=Path(default), help=f"figure: {' '.join(SUFFIXES)}")


def plain_text(**settings) -> AbstractContextManager:
    """A context in which matplotlib draws text literally: a `$` in a file's name starts no formula.

    Args:
        settings: further rc parameters, "." written as "__".
    """
    import matplotlib

    return matplotlib.rc_context(
        {"text.parse_math": False} | {name.replace("__", "."): value for name, value in settings.items()}
    )


def legend_label(name: str) -> str:
    """`name` as a legend's label; matplotlib omits labels that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name
