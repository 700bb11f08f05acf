"""The command line: `qdesampler sample`, `compare`, `ground-state`, `anneal` and `models`."""

import argparse
import sys
from collections.abc import Sequence

from qdesampler.cli.common import BAD_INPUT, FAILURE, INTERRUPTED, InputError, one_line
from qdesampler.cli.ground import with_potential
from qdesampler.cli.parser import parser
from qdesampler.infer import ModelLoadError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code (see `--help`).

    Raises:
        SystemExit: from argparse, after `--help` or wrong arguments.
    """
    arguments = parser().parse_args(with_potential(sys.argv[1:] if argv is None else argv))
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
