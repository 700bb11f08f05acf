"""The parser of the whole command line: one subcommand for each file of this folder that adds one."""

import argparse
from typing import NoReturn

from qdesampler.cli.anneal import add_anneal
from qdesampler.cli.common import BAD_INPUT, EXIT_CODES
from qdesampler.cli.compare import add_compare
from qdesampler.cli.completion import PrintCompletion
from qdesampler.cli.ground import add_ground_state
from qdesampler.cli.models import add_models
from qdesampler.cli.sample import add_sample

__all__ = ["parser"]

_COMMANDS = (add_sample, add_models, add_compare, add_ground_state, add_anneal)

_START = """examples:
  qdesampler models                                       the models that are there
  qdesampler sample models/eight_schools --out runs/eight draws, tables, plots, report.html
  qdesampler compare models/eight_schools --kernels qde,nuts
  qdesampler ground-state "x**4" --out quartic.png        levels of a potential
  qdesampler anneal model.json --out reads.png            states and log Z of a binary quadratic model

`qdesampler COMMAND --help` lists the options of a command.

"""


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The argument parser of `qdesampler` with all its commands."""
    top = _Parser(
        prog="qdesampler",
        description="Posterior sampling for NumPyro by imaginary time.",
        epilog=_START + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "--print-completion",
        action=PrintCompletion,
        help="print a script that completes commands in Bash and zsh",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands).add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top
