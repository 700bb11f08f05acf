"""Commands that are killed at any moment and started again with the same line.

python -m qdesampler.bench.driver.kills
python -m qdesampler.bench.driver.kills --commands sample --kills 50

Each command runs once undisturbed, which shows how many CPU seconds it takes and what it writes. Then it is
started again and again in a new folder, killed (SIGKILL) when it has used a number of CPU seconds drawn from
the whole of that duration, one in each of equal parts, and started again: `sample` with `--resume`, the
others as before. Counted are refusals (the second call did not end with 0), losses (the draws, or the files
of the others, are not those of the undisturbed run), and leftovers (names that the undisturbed run does not
have). CPU seconds are read from `/proc` (Linux), because the clock says little on a busy machine.
"""

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from qdesampler.driver.files import holds_run

__all__ = ["Killed", "kill_and_repeat"]

MODEL = Path("models/eight_schools")
_SAMPLE = "sample MODEL --draws 400 --warmup 200 --checkpoint-every 50 --store --allow-bad --out results"
COMMANDS = {
    "sample": _SAMPLE,
    "compare": "compare MODEL --kernels qde --draws 300 --warmup 200 --allow-bad --out results",
    "ground-state": "ground-state x**4 --out well.png",
    "models": "models MODEL/..",
}
_EARLIER = 0.9  # factor of a moment that came after the end; under load equal runs differ by 10%
_LOOK = 0.005  # seconds between two looks at the CPU seconds of a process
_AGAIN = {"sample": " --resume"}
# Figures of `compare` that differ from run to run: the clock's, and the moment of writing.
_CLOCK = ("compile_s", "run_s", "wall_s")


class Killed(NamedTuple):
    """What twenty, or any number of kills did to a command.

    Attributes:
        seconds: CPU seconds of the undisturbed run.
        kills: kills that met a running process.
        with_checkpoint: kills after which a checkpoint was there.
        mid_writing: kills after which an unfinished file or folder was there.
        refusals: second calls that did not end with 0, with what they said.
        losses: second calls whose results differ.
        leftovers: names that should not be there.
    """

    seconds: float
    kills: int
    with_checkpoint: int
    mid_writing: int
    refusals: list[str]
    losses: list[str]
    leftovers: list[str]


def kill_and_repeat(
    command: str, kills: int, seed: int = 0, model: Path = MODEL, report: Callable[[str], None] = print
) -> Killed:
    """Kill a command at moments spread over its duration, start it again each time, and compare.

    Args:
        command: of `COMMANDS`.
        kills: how many.
        seed: of the moments.
        model: the folder of the model to sample.
        report: gets a line of progress for each kill.

    Raises:
        subprocess.CalledProcessError: the undisturbed run fails.
    """
    line = COMMANDS[command].replace("MODEL", str(model.resolve()))
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as base:
        before = _of_children()
        whole = _run(line, Path(base))
        seconds = _of_children() - before
        whole.check_returncode()
        expected = _results(Path(base), whole.stdout), _names(Path(base))
    met, kept, unfinished = 0, 0, 0
    refusals, losses, leftovers = [], [], []
    for part in range(kills):
        moment = seconds * (part + rng.random()) / kills
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            while not (found := _killed(line, folder, moment)) and moment > seconds / 2:
                moment *= _EARLIER  # this run took less than the undisturbed one: again, in an empty folder
                _empty(folder)
            met += found
            kept += holds_run(folder)
            unfinished += any(path.name.startswith(".unfinished-") for path in folder.rglob("*"))
            again = _run(line + _AGAIN.get(command, ""), folder)
            where = f"killed after {moment:.2f} CPU s"
            if again.returncode:
                refusals.append(f"{where}: {again.stderr.strip()[-300:]}")
            elif not _equal(_results(folder, again.stdout), expected[0]):
                losses.append(where)
            leftovers += [f"{where}: {name}" for name in sorted(_names(folder) - expected[1])]
        report(f"{command}: {part + 1} of {kills}, {where}, then {again.returncode}")
    return Killed(seconds, met, kept, unfinished, refusals, losses, leftovers)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _run(line: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(_words(line), cwd=folder, capture_output=True, text=True)


def _killed(line: str, folder: Path, moment: float) -> bool:
    """Whether the process was still running when it was killed."""
    process = subprocess.Popen(
        _words(line),
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        if _cpu_seconds(process.pid) >= moment:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(_LOOK)
    return False


def _cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and its threads; infinite if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _words(line: str) -> list[str]:
    return [sys.executable, "-m", "qdesampler", *line.split()]


def _names(folder: Path) -> set[str]:
    """All names in a folder; of a checkpoint's files only the kind, because their iterations may differ."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {re.sub(r"\d{12}\.qde$", "*.qde", name) for name in names}


def _results(folder: Path, printed: str) -> dict[str, Any]:
    """What must not depend on a kill."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "posterior.nc":
            draws = xr.load_datatree(path, engine="h5netcdf")["posterior"]
            found |= {str(name): value.values for name, value in draws.data_vars.items()}
        elif path.name == "summary.csv" or path.suffix == ".png" and path.parent == folder:
            found[path.name] = path.read_bytes()
        elif path.name == "comparison.csv":
            found[path.name] = _without_clock(path.read_text())
    return found or {"printed": printed}


def _without_clock(table: str) -> str:
    rows = [line.split(",") for line in table.splitlines() if not line.startswith("#")]
    columns = [i for i, name in enumerate(rows[0]) if name not in _CLOCK]
    return "\n".join(",".join(row[i] for i in columns if i < len(row)) for row in rows)


def _equal(found: dict[Any, Any], expected: dict[Any, Any]) -> bool:
    def same(name: str) -> bool:
        one, other = found[name], expected[name]
        if isinstance(one, np.ndarray):
            return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        return one == other

    return found.keys() == expected.keys() and all(map(same, found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a command; the exit code is 1 if anything was refused, lost or left."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.driver.kills", description=__doc__)
    parser.add_argument("--commands", choices=list(COMMANDS), nargs="+", default=list(COMMANDS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args(arguments)
    bad = 0
    for command in options.commands:
        done = kill_and_repeat(
            command, options.kills, options.seed, options.model, lambda text: print(text, file=sys.stderr)
        )
        print(
            f"{command}: {done.seconds:.1f} CPU s undisturbed, {done.kills} kills ({done.with_checkpoint} "
            f"with a checkpoint, {done.mid_writing} in the middle of writing): "
            f"{len(done.refusals)} refusals, {len(done.losses)} losses, {len(done.leftovers)} leftovers",
            flush=True,
        )
        for trouble in (*done.refusals, *done.losses, *done.leftovers):
            print(f"  {trouble}", flush=True)
            bad += 1
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
