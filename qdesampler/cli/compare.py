"""`qdesampler compare MODEL --kernels qde,annealed,nuts`: what each kernel costs on a model of one's own."""

import argparse
from pathlib import Path
from typing import Any

from qdesampler.bench.harness.record import Record, Settings
from qdesampler.bench.harness.table import header, write
from qdesampler.bench.measurement import measure
from qdesampler.bench.peers.numpyro import numpyro_runner
from qdesampler.bench.peers.registry import RUNNERS, missing_packages
from qdesampler.cli.common import (
    BAD_VERDICT,
    OK,
    InputError,
    Progress,
    add_number,
    at_least,
    comma_separated,
    seed,
)
from qdesampler.diagnostics import draw_png, plot_comparison, write_atomically
from qdesampler.infer import AnnealedQDE, load_model

__all__ = ["KERNELS", "add_compare"]

KERNELS = {**RUNNERS, "annealed": numpyro_runner(AnnealedQDE)}
_COLUMNS = (
    "kernel",
    "seed",
    "ESS",
    "warm-up evals",
    "sampling evals",
    "evals to ESS 400",
    "R-hat",
    "s",
    "status",
)


def add_compare(commands: "argparse._SubParsersAction[Any]") -> argparse.ArgumentParser:
    """Add the command to the parser."""
    command = commands.add_parser(
        "compare",
        help="run several kernels on a model and compare what their draws cost",
        description="Run kernels on a model and compare evaluations of the log density (warm-up included), "
        "effective draws and wall time. PATH is a folder with model.py (and data.json), or one Python file.",
        epilog="ESS is the smaller of x and x^2 over all scalars; evaluations to ESS 400 include the warm-up "
        "and extrapolate. Draws that fail a check are marked, and make the exit code 1.",
    )
    command.set_defaults(action=_compare)
    command.add_argument("path", metavar="PATH", type=Path, help="the model")
    command.add_argument(
        "--kernels",
        metavar="A,B",
        type=comma_separated,
        default=["qde", "nuts"],
        help=f"of {', '.join(KERNELS)}; default: qde,nuts",
    )
    command.add_argument("--data", metavar="FILE", type=Path, help="JSON data in place of the model's own")
    add_number(command, "--chains", at_least(1), 4)
    add_number(command, "--draws", at_least(8), 1000)
    add_number(command, "--warmup", at_least(1), 1000)
    command.add_argument("--seeds", metavar="A,B", type=comma_separated, default=["0"], help="default: 0")
    command.add_argument("--out", metavar="DIR", type=Path, help="folder for comparison.md, .csv and .png")
    command.add_argument("--allow-bad", action="store_true", help="exit with 0 even if a kernel fails")
    return command


def _compare(arguments: argparse.Namespace) -> int:
    unknown = [name for name in arguments.kernels if name not in KERNELS]
    if unknown:
        raise InputError(f"--kernels: {', '.join(unknown)} unknown; there are {', '.join(KERNELS)}.")
    missing = missing_packages(arguments.kernels)
    if missing:
        raise InputError(
            f"--kernels: {' and '.join(missing)} not installed: pip install 'qdesampler[bench]'."
        )
    try:
        seeds = [seed(text) for text in arguments.seeds]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise InputError(f"--seeds: {error}") from error
    out: Path | None = arguments.out
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out: {out} is a file; expected a folder.")
    case = load_model(arguments.path, arguments.data)
    settings = Settings(arguments.chains, arguments.warmup, arguments.draws)
    records: list[Record] = []
    with Progress() as progress:
        for kernel in arguments.kernels:
            for number in seeds:
                progress(
                    f"{case.name}: {kernel}, seed {number} ({len(records) + 1} of "
                    f"{len(arguments.kernels) * len(seeds)})"
                )
                records.append(measure(case, kernel, number, settings, KERNELS))
    print(
        f"{case.name}: {settings.chains} chains, {settings.warmup} warm-up iterations, "
        f"{settings.draws} draws\n"
    )
    print(_table(records))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        about = header(settings)
        for suffix in (".md", ".csv"):
            write(out / f"comparison{suffix}", records, about)
        names = ["comparison.md", "comparison.csv"]
        good = [r for r in records if not r.failed and r.evals_to_400]
        if good:
            values = {
                "evaluations to ESS 400": [float(r.evals_to_400 or 0) for r in good],
                "seconds, without compilation": [float(r.run_s or 0) for r in good],
            }
            labels = [r.kernel if len(seeds) == 1 else f"{r.kernel}, seed {r.seed}" for r in good]
            image = draw_png(lambda: plot_comparison(labels, values, backend="matplotlib"))
            write_atomically(out / "comparison.png", image)
            names.append("comparison.png")
        print(f"\nWritten to {out}: {', '.join(names)}")
    return BAD_VERDICT if any(r.failed for r in records) and not arguments.allow_bad else OK


def _table(records: list[Record]) -> str:
    rows = [list(_COLUMNS), *(_cells(record) for record in records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    last = len(_COLUMNS) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cells(record: Record) -> list[str]:
    def number(value: float | None, form: str = ",.0f") -> str:
        return "" if value is None else format(value, form)

    smallest = None if record.ess is None or record.ess_sq is None else min(record.ess, record.ess_sq)
    return [
        record.kernel,
        str(record.seed),
        number(smallest),
        number(record.warmup_evals),
        number(record.sampling_evals),
        number(record.evals_to_400) + ("" if record.reached_400 or record.evals_to_400 is None else " *"),
        number(record.rhat, ".3f"),
        number(record.run_s, ".1f"),
        record.status,
    ]
