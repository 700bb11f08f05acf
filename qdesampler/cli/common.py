"""What all commands share: exit codes, errors of the user, checked numbers, progress."""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qdesampler.infer import ModelCase
from qdesampler.infer.model.failures import explain_failure

__all__ = [
    "BAD_INPUT",
    "BAD_VERDICT",
    "EXIT_CODES",
    "FAILURE",
    "INTERRUPTED",
    "OK",
    "InputError",
    "Progress",
    "add_number",
    "at_least",
    "check_output",
    "comma_separated",
    "failure",
    "one_line",
    "positive",
    "print_warnings",
    "seed",
]

# Exit codes; 130 is the shell's for an interrupt, 143 for a SIGTERM (`MCMC` raises it).
OK, BAD_VERDICT, BAD_INPUT, FAILURE, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """exit codes:
  0    the draws may be used, or what was asked for was printed
  1    something speaks against the draws (see the printed reasons; --allow-bad turns this into 0)
  2    wrong arguments, model, data or output folder, or a model that cannot be sampled
  3    a failure of the program itself
  130  interrupted
  143  asked to end (SIGTERM) while it kept checkpoints; one was written
"""


class InputError(Exception):
    """Something the user can mend; the message is one line."""


class Progress:
    """What is being done, in one line on the terminal that is gone afterwards; silent elsewhere.

    Args:
        quiet: silent on a terminal too.
    """

    def __init__(self, *, quiet: bool = False):
        self.shown = sys.stderr.isatty() and not quiet

    def __call__(self, text: str) -> None:
        """Replace the line."""
        if self.shown:
            print(f"\r\x1b[K{text} ...", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def failure(case: ModelCase, error: Exception) -> str:
    """An error of a user's model in one line, with its place in the model if that is known."""
    words = f"{type(error).__name__}: {one_line(error)}"
    found = explain_failure(case.model, (), case.data)
    return f"{words}{'' if words.endswith('.') else '.'} {found}" if found else words


def add_number(
    command: argparse.ArgumentParser,
    name: str,
    kind: Callable[[str], Any],
    default: float,
    *,
    metavar: str = "N",
    about: str = "",
) -> None:
    """Add an option that takes a number; its help ends with the default."""
    command.add_argument(
        name, metavar=metavar, type=kind, default=default, help=f"{about}default: %(default)s"
    )


def check_output(option: str, path: Path | None, end: str) -> None:
    """Refuse a file that an option names and that cannot be written, before anything is computed.

    Raises:
        InputError: the name has another ending, or the folder does not exist.
    """
    if path is not None and (path.suffix != end or not path.parent.is_dir()):
        raise InputError(f"{option}: {path} must end in {end} and lie in an existing folder.")


def print_warnings(caught: Sequence[warnings.WarningMessage]) -> None:
    """Print warnings, a line each."""
    for warning in caught:
        print(f"warning: {one_line(Warning(warning.message))}")


def at_least(least: int) -> Callable[[str], int]:
    """An argument type: integers from `least` on."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small; expected at least {least}")
        return value

    return integer


def positive(text: str) -> float:
    """An argument type: positive, finite numbers."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not positive and finite")
    return value


def seed(text: str) -> int:
    """An argument type: seeds of 32 bits."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is no seed; expected 0 to {2**32 - 1}")
    return value


def comma_separated(text: str) -> list[str]:
    """An argument type: `a,b` as its parts."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise argparse.ArgumentTypeError("expected names separated by commas")
    return parts
