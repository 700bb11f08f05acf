"""The command `python -m qdesampler.bench.examples`: QDE and NUTS on the models of NumPyro's documentation.

    python -m qdesampler.bench.examples --models ar2,gp --chains 4 --seeds 0,1,2
    python -m qdesampler.bench.examples --group hierarchies --out hierarchies.csv,hierarchies.md
    python -m qdesampler.bench.examples --add examples.csv --kernels nuts --out examples.csv,examples.md

Every run has a cold process of its own: a crash or a run without an end is a failed row, and CPU seconds are
those of a whole process. Files are rewritten after every run.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from qdesampler.bench.__main__ import comma_separated, progress_line
from qdesampler.bench.examples.process import Run, run
from qdesampler.bench.examples.registry import EXAMPLES, GROUPS
from qdesampler.bench.examples.table import read_runs, to_csv, to_markdown
from qdesampler.bench.examples.worker import SAMPLERS
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import SUFFIXES, header

__all__ = ["main"]

ITERATIONS = (
    1000  # of the warm-up and of the draws of a chain, where neither the model nor the user has others
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.examples", description=__doc__)
    parser.add_argument(
        "--models", type=comma_separated, default=[], help=f"all by default, or some of {', '.join(EXAMPLES)}"
    )
    parser.add_argument("--group", choices=GROUPS, help="only the models of this group")
    parser.add_argument(
        "--kernels", type=comma_separated, default=list(SAMPLERS), help=f"of {', '.join(SAMPLERS)}"
    )
    parser.add_argument("--chains", type=comma_separated, default=["1", "4"], help="numbers of chains")
    parser.add_argument("--seeds", type=comma_separated, default=["0"])
    parser.add_argument("--warmup", type=int, help=f"the model's own by default, else {ITERATIONS}")
    parser.add_argument("--draws", type=int, help=f"the model's own by default, else {ITERATIONS}")
    parser.add_argument("--timeout", type=float, default=300.0, help="wall seconds of one process")
    parser.add_argument(
        "--cache",
        action="store_true",
        help="leave JAX's compilation cache as the environment has it: for counts; seconds are not kept",
    )
    parser.add_argument("--add", type=Path, help="a .csv of earlier runs, kept and not run again")
    parser.add_argument("--note", default="", help="a line for the header, on how the figures were taken")
    parser.add_argument("--out", type=comma_separated, default=[], help="files ending in .csv or .md")
    options = parser.parse_args(arguments)
    for name, known in (("models", EXAMPLES), ("kernels", SAMPLERS)):
        unknown = [given for given in getattr(options, name) if given not in known]
        if unknown:
            parser.error(f"--{name} {','.join(unknown)}: expected some of {', '.join(known)}")
    for name, least in (("chains", 1), ("seeds", 0)):
        given = getattr(options, name)
        if not given or not all(n.isdecimal() and int(n) >= least for n in given):
            parser.error(f"--{name} {','.join(given)}: expected integers from {least}, separated by commas")
        setattr(options, name, [int(n) for n in given])
    for name, least in (("warmup", 1), ("draws", 8)):
        given = getattr(options, name)
        if given is not None and given < least:
            parser.error(f"--{name} {given}: expected at least {least}")
    if not options.timeout > 0:
        parser.error(f"--timeout {options.timeout:g}: expected seconds above 0")
    options.out = [Path(name) for name in options.out]
    if not all(path.suffix in SUFFIXES for path in options.out):
        parser.error(f"--out: expected names that end in {' or '.join(SUFFIXES)}")
    if options.add and not options.add.is_file():
        parser.error(f"--add {options.add}: there is no such file")
    return options


def write(paths: Sequence[Path], runs: Sequence[Run], about: dict[str, str]) -> None:
    """Write each file by its suffix."""
    makers: dict[str, Callable] = dict(zip(SUFFIXES, (to_csv, to_markdown), strict=True))
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(makers[path.suffix](runs, about), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for and print the table."""
    options = parse(arguments)
    runs = read_runs(options.add) if options.add else []
    about = header(Settings()) | {
        "settings": f"vectorized chains, {ITERATIONS} warm-up and draws where a model has no other numbers"
    }
    if options.warmup or options.draws:
        given = {"warm-up": options.warmup, "draws": options.draws}
        about["settings"] += "; for all: " + ", ".join(f"{n} {name}" for name, n in given.items() if n)
    if options.note:
        about["note"] = options.note
    done = {(r.record.model, r.record.kernel, r.settings.chains, r.record.seed) for r in runs}
    for name in options.models or EXAMPLES:
        built = EXAMPLES[name]()
        if options.group and built.group != options.group:
            continue
        for chains in options.chains:
            settings = Settings(
                chains,
                options.warmup or built.warmup or ITERATIONS,
                options.draws or built.draws or ITERATIONS,
            )
            for seed in options.seeds:
                for kernel in options.kernels:
                    if (name, kernel, chains, seed) in done:
                        continue
                    found = run(built, kernel, seed, settings, options.timeout, options.cache)
                    runs.append(found)
                    warned = f"; {found.warned}" if found.warned else ""
                    print(
                        f"{chains} chains, {progress_line(found.record)}{warned}", file=sys.stderr, flush=True
                    )
                    write(options.out, runs, about)
    write(options.out, runs, about)
    print(to_markdown(runs, about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
