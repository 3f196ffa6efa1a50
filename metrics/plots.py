"""Names of methods and clips in matplotlib's figures, letter by letter."""

from contextlib import AbstractContextManager


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
