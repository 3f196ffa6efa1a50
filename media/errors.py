"""What a command says when its input is wrong: one line on stderr and exit code 2."""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from omegaconf.errors import OmegaConfBaseException


class InputError(Exception):
    """An input that cannot be used. The message is one line: which input, what is wrong with it, what to do."""


def first_line(error: BaseException) -> str:
    """What an error says, as far as it goes into a message of one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line too: argparse's own prints the whole usage before them."""

    def __init__(self, description: str | None = None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def quick_help(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Answer `--help` at once: call `parse` where it stands, before the imports below it, which may take seconds.

    For the `parse` of a command that is run as such; imported, it stays as it is.
    """
    if parse.__module__ == "__main__" and {"-h", "--help"} & set(sys.argv[1:]):
        parse()
    return parse


def positive(text: str) -> int:
    """The type of an option that is a whole number from 1 on."""
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return number


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn an `InputError` or a config error raised below `main` into one line on stderr and the exit code 2.

    So with a path that the system refuses, a package that is not installed, and a GPU whose memory is full. Every
    script's entry point wears this decorator and is started as `sys.exit(main())`. Other exceptions are defects of the
    program and keep their traceback; Ctrl-C exits with 130 like any interrupted Unix command.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except (InputError, OmegaConfBaseException) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            print(f"error: {'; '.join(lines)}", file=sys.stderr)
            return 2
        except OSError as error:
            if error.filename is None:
                raise
            print(f"error: {error.filename}: {error.strerror}; check the path and its permissions", file=sys.stderr)
            return 2
        except ModuleNotFoundError as error:
            print(f"error: {error}; install what is missing (pip install -r requirements.txt)", file=sys.stderr)
            return 2
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which not every command imports
                raise
            print(
                "error: the GPU's memory is full; set a lower train.micro_batch or train.batch_size of a training, "
                "--batch-size of a dub, --size of a comparison",
                file=sys.stderr,
            )
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return run
