"""Runs `qdesampler` in child processes that kill themselves while they write, for test_killed_commands.py.

python -m tests.support.killed_command FOLDER MOMENT... -- ARGUMENTS

Each moment is `PATTERN:N`: in place of the N-th rename to a path with that pattern, the process gets SIGKILL.
The results of the first go to FOLDER/0, and so on. The kernel is `GaussianWalk`.
"""

import os
import re
import signal
import sys

from qdesampler.cli import main as cli
from qdesampler.cli import sample as sample_command
from tests.support.kernels import GaussianWalk


def use_quick_kernel() -> None:
    """Let the command run without compiling and drawing."""
    sample_command.KERNELS["qde"] = ("walk", GaussianWalk, ())


def killed_at(moment: str, arguments: list[str]) -> int:
    """The signal that ended a child process."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    pattern, _, count = moment.rpartition(":")
    seen, replace = 0, os.replace

    def fatal(source, target):
        nonlocal seen
        seen += re.search(pattern, str(target)) is not None
        if seen == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = fatal
    os._exit(cli.main(arguments))


if __name__ == "__main__":
    folder, *rest = sys.argv[1:]
    cut = rest.index("--")
    use_quick_kernel()
    for number, moment in enumerate(rest[:cut]):
        print(killed_at(moment, [*rest[cut + 1 :], "--out", f"{folder}/{number}"]), flush=True)
