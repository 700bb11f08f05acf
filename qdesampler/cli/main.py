"""The command line: `qdesampler sample`, `compare`, `ground-state` and `models`."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from qdesampler.cli.common import BAD_INPUT, EXIT_CODES, FAILURE, INTERRUPTED, InputError, one_line
from qdesampler.cli.compare import add_compare
from qdesampler.cli.ground import add_ground_state
from qdesampler.cli.models import add_models
from qdesampler.cli.sample import add_sample
from qdesampler.infer import ModelLoadError

__all__ = ["main", "parser"]

_START = """examples:
  qdesampler models                                       the models that are there
  qdesampler sample models/eight_schools --out runs/eight draws, tables, plots, report.html
  qdesampler compare models/eight_schools --kernels qde,nuts
  qdesampler ground-state "x**4" --out quartic.png        levels of a potential

`qdesampler COMMAND --help` tells the rest.

"""


class _Parser(argparse.ArgumentParser):
    """argparse with one line for an error."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The argument parser of the whole command."""
    top = _Parser(
        prog="qdesampler",
        description="Posterior sampling for NumPyro by imaginary time.",
        epilog=_START + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (add_sample, add_models, add_compare, add_ground_state):
        add(commands).add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None takes the process's own.

    Returns:
        The exit code (see `--help`).

    Raises:
        SystemExit: from argparse, after `--help` or wrong arguments.
    """
    arguments = parser().parse_args(argv)
    try:
        return arguments.action(arguments)
    except (InputError, ModelLoadError) as error:
        return _failed(arguments, error, BAD_INPUT, one_line(error))
    except KeyboardInterrupt as error:
        return _failed(arguments, error, INTERRUPTED, "interrupted; nothing was written")
    except Exception as error:
        message = f"failure: {type(error).__name__}: {one_line(error)} (--debug shows where)"
        return _failed(arguments, error, FAILURE, message)


def _failed(arguments: argparse.Namespace, error: BaseException, code: int, message: str) -> int:
    if arguments.debug:
        raise error
    print(f"qdesampler: {message}", file=sys.stderr)
    return code
