"""Input errors of a command: one line on stderr and exit code 2."""

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from omegaconf.errors import OmegaConfBaseException


class InputError(Exception):
    """An input that cannot be used. The message is one line: the input, the fault, the remedy."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type's name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors; argparse's own prints the whole usage before each."""

    def __init__(self, description: str | None = None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def quick_help(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a command's `parse`: answers `--help` before the imports below it, which may take seconds.

    Has no effect in a module that is imported, not run.
    """
    if parse.__module__ == "__main__" and {"-h", "--help"} & set(sys.argv[1:]):
        parse()
    return parse


def interrupt_on(signals: Iterable[int]) -> None:
    """Raise KeyboardInterrupt in the main thread at the first of `signals`; the clean-up is not interrupted again."""
    signals = tuple(signals)

    def interrupt(signal_number, frame) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, interrupt)


def positive(text: str) -> int:
    """Type of an option for argparse: an integer of at least 1."""
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return number


# What PyTorch's gloo says where another process does not come, or has ended.
_WAITED = ("Timed out waiting", "Connection closed by peer", "Connection reset by peer")


def waited_in_vain(error: BaseException) -> bool:
    """Whether `error` says that another process of a training did not come to a collective operation."""
    lost = type(error).__name__ in ("DistBackendError", "DistNetworkError")  # by name: see `explanation`
    return lost or (isinstance(error, RuntimeError) and any(text in str(error) for text in _WAITED))


def explanation(error: Exception) -> str | None:
    """The one line that a command says of `error`; None if it is a defect of the program."""
    if isinstance(error, InputError | OmegaConfBaseException):
        return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; install what is missing (pip install -r requirements.txt)"
    if type(error).__name__ == "OutOfMemoryError":  # by name: not every command imports PyTorch
        return (
            "the GPU's memory is full; set a lower train.micro_batch or train.batch_size of a training, "
            "--batch-size of a dub, --size of a comparison"
        )
    if waited_in_vain(error):
        return (
            f"process {os.environ.get('RANK', '0')} waited for another one of the training, which did not come "
            f"({first_line(error)}); see the other's message. If it was still validating, set fewer "
            f"train.validation_windows"
        )
    return None


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorator that turns an `InputError` or a config error in `main` into one line on stderr and exit code 2.

    A path that the system refuses, a package that is not installed and a full GPU memory are reported in the same way.
    Every script's entry point has this decorator and is started as `sys.exit(main())`. Other exceptions are defects of
    the program and keep their traceback. Ctrl-C exits with 130, like any interrupted Unix command.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            code = main(*args, **kwargs) or 0
            sys.stdout.flush()  # here, where a reader that has left is no traceback
            return code
        except BrokenPipeError:  # the reader of the output has left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141  # what a shell reports of a program that SIGPIPE ended
        except Exception as error:
            line = explanation(error)
            if line is None:
                raise
            print(f"error: {line}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return run
