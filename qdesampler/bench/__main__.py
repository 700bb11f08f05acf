"""The command `python -m qdesampler.bench`: every kernel on every model with every seed.

python -m qdesampler.bench --models eight_schools,mesquite --kernels all --seeds 0,1 --out table.csv,table.md
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qdesampler.bench.harness.record import Record, Settings
from qdesampler.bench.harness.table import SUFFIXES, header, to_markdown, write
from qdesampler.bench.measurement import measure
from qdesampler.bench.peers.numpyro import ABLATIONS
from qdesampler.bench.peers.registry import RUNNERS, missing_packages
from qdesampler.bench.targets.closed_form import TARGETS
from qdesampler.bench.targets.hard import HARD_TARGETS
from qdesampler.infer import ModelCase, ModelLoadError, list_models, load_model

SHORT_MODELS = ["eight_schools", "banana", "gaussian-20"]
BUILT_IN = TARGETS | HARD_TARGETS


def find_models(names: Sequence[str], folder: Path) -> list[ModelCase]:
    """Models by name: a built-in target, a path, a folder in `folder`, "hard" or "all".

    "hard" are the hard targets, "all" the other built-in ones and every model in `folder`.

    Raises:
        ModelLoadError: for a name that is none of these.
    """
    cases = []
    for name in names:
        if name == "all":
            cases += [build() for build in TARGETS.values()]
            cases += [load_model(path) for path in list_models(folder)]
        elif name == "hard":
            cases += [build() for build in HARD_TARGETS.values()]
        elif name in BUILT_IN:
            cases.append(BUILT_IN[name]())
        elif Path(name).exists():
            cases.append(load_model(name))
        else:
            try:
                cases.append(load_model(folder / name))
            except ModelLoadError as error:
                raise ModelLoadError(f"{error} Built-in targets: {', '.join(BUILT_IN)}.") from error
    return cases


def comma_separated(text: str) -> list[str]:
    """Split `a,b` into its parts."""
    return [part for part in text.split(",") if part]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench", description=__doc__)
    parser.add_argument(
        "--models",
        type=comma_separated,
        default=SHORT_MODELS,
        help=f"built-in ({', '.join(BUILT_IN)}), a path, a name in --folder, hard (the hard targets), or all "
        "(the other targets and everything in --folder); separated by commas",
    )
    parser.add_argument("--folder", type=Path, default=Path("models"), help="where named models lie")
    parser.add_argument(
        "--kernels",
        type=comma_separated,
        default=["qde", "nuts"],
        help=f"all (without the QDE of reduced parts), or of {', '.join(RUNNERS)}",
    )
    parser.add_argument("--seeds", type=comma_separated, default=["0"])
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument(
        "--out", type=comma_separated, default=[], help="files ending in .csv or .md, separated by commas"
    )
    options = parser.parse_args(arguments)
    if options.kernels == ["all"]:
        options.kernels = [name for name in RUNNERS if name not in ABLATIONS]
    unknown = [kernel for kernel in options.kernels if kernel not in RUNNERS]
    if unknown:
        parser.error(f"--kernels {','.join(unknown)}: expected all, or some of {', '.join(RUNNERS)}")
    missing = missing_packages(options.kernels)
    if missing:
        parser.error(
            f"--kernels {','.join(options.kernels)} needs {' and '.join(missing)}, not installed here: "
            "pip install 'qdesampler[bench]' (make bench does it), or leave these kernels out"
        )
    if not all(seed.isdecimal() for seed in options.seeds):
        parser.error(f"--seeds {','.join(options.seeds)}: expected integers from 0, separated by commas")
    options.seeds = [int(seed) for seed in options.seeds]
    options.out = [Path(name) for name in options.out]
    if not all(path.suffix in SUFFIXES for path in options.out):
        parser.error(f"--out: expected names that end in {' or '.join(SUFFIXES)}")
    for name, least in (("chains", 1), ("warmup", 1), ("draws", 8)):
        if getattr(options, name) < least:
            parser.error(f"--{name} {getattr(options, name)}: expected at least {least}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; files are rewritten after every run, so that a stopped one keeps its rows."""
    options = parse(arguments)
    settings = Settings(options.chains, options.warmup, options.draws)
    try:
        cases = find_models(options.models, options.folder)
    except ModelLoadError as error:
        print(error, file=sys.stderr)
        return 2
    about = header(settings)
    records: list[Record] = []
    for case in cases:
        for seed in options.seeds:
            for kernel in options.kernels:
                record = measure(case, kernel, seed, settings)
                records.append(record)
                print(progress_line(record), file=sys.stderr, flush=True)
                for path in options.out:
                    write(path, records, about)
    print(to_markdown(records, about))
    return 0


def progress_line(record: Record) -> str:
    """One line while the others still run."""
    line = f"{record.model} {record.kernel} seed {record.seed}: {record.status}"
    if record.evals_to_400 is not None:
        line += f", {record.evals_to_400:.3g} evaluations to ESS 400"
        line += "" if record.reached_400 else " (extrapolated)"
    return line


if __name__ == "__main__":
    sys.exit(main())
