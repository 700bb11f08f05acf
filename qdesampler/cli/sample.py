"""`qdesampler sample`: a model's draws, tables, plots and report, written into one folder."""

import argparse
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax

from qdesampler.cli.common import (
    BAD_VERDICT,
    EXIT_CODES,
    OK,
    InputError,
    Progress,
    add_number,
    at_least,
    failure,
    one_line,
    seed,
)
from qdesampler.diagnostics import (
    EXTRA_PLOT_NAMES,
    PLOT_NAMES,
    Analysis,
    Finding,
    ResultFolder,
    format_summary,
    report,
)
from qdesampler.driver import MCMC, CheckpointError, StoreError
from qdesampler.driver.files import holds_run
from qdesampler.infer import QDE, AnnealedQDE, ModelCase, compare_with_reference, load_model
from qdesampler.infer.counted_nuts import CountedNUTS

__all__ = ["add_sample"]

MAX_ERROR = 5.0  # standard errors between draws and reference values
EVERY = 500  # iterations between checkpoints with --resume alone, the default of `MCMC`

# The kernel's name for people, how to make it, and what to collect beside its own fields.
KERNELS: dict[str, tuple[str, Callable[[Callable], Any], tuple[str, ...]]] = {
    "qde": ("QDE", QDE, ()),
    "annealed": ("AnnealedQDE", AnnealedQDE, ()),
    "nuts": (
        "NUTS",
        CountedNUTS,
        ("nuts.energy", "nuts.potential_energy", "nuts.accept_prob", "nuts.adapt_state.step_size"),
    ),
}

RESULTS = (
    "posterior.nc",
    "summary.csv",
    "report.html",
    *(f"plots/{name}.png" for name in (*PLOT_NAMES, *EXTRA_PLOT_NAMES)),
)


def add_sample(commands: "argparse._SubParsersAction[Any]") -> argparse.ArgumentParser:
    """Add the command to the parser."""
    sample = commands.add_parser(
        "sample",
        help="sample a model and write draws, tables, plots and a report",
        description="Sample a model: PATH is a folder with model.py (and data.json), or one Python file.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sample.set_defaults(action=sample_command)
    sample.add_argument("path", metavar="PATH", type=Path, help="the model")
    sample.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    sample.add_argument("--data", metavar="FILE", type=Path, help="JSON data in place of the model's own")
    sample.add_argument("--kernel", choices=sorted(KERNELS), default="qde", help="default: %(default)s")
    add_number(sample, "--chains", at_least(1), 4)
    add_number(sample, "--draws", at_least(1), 1000, about="for each chain; ")
    add_number(sample, "--warmup", at_least(0), 1000, about="iterations; ")
    add_number(sample, "--seed", seed, 0)
    sample.add_argument(
        "--checkpoint-every",
        metavar="N",
        type=at_least(1),
        help=f"keep checkpoints in DIR.ckpt every N iterations; with --resume alone, every {EVERY}",
    )
    sample.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in DIR.ckpt, with its seed, and write its results to DIR; if DIR.ckpt holds "
        "no run, start one. A job that may be killed at any moment can be started again with the same line",
    )
    sample.add_argument(
        "--until-ess", metavar="N", type=at_least(1), help="end when every parameter has N effective draws"
    )
    sample.add_argument("--max-time", metavar="SECONDS", type=at_least(1), help="end sampling after this")
    sample.add_argument("--chain-batch", metavar="N", type=at_least(1), help="chains at a time")
    sample.add_argument("--devices", metavar="N", type=at_least(1), help="spread the chains over N devices")
    sample.add_argument(
        "--store", action="store_true", help="stream the draws to DIR.zarr while they are made (extra store)"
    )
    sample.add_argument("--x64", action="store_true", help="double precision")
    sample.add_argument("--overwrite", action="store_true", help="replace the results in a non-empty --out")
    sample.add_argument("--allow-bad", action="store_true", help="exit with 0 even if the verdict is bad")
    sample.add_argument("--quiet", action="store_true", help="print only what speaks against the draws")
    return sample


def sample_command(arguments: argparse.Namespace) -> int:
    """Run `qdesampler sample`; returns the exit code."""
    case = load_model(arguments.path, arguments.data)
    resumed = arguments.resume and holds_run(_beside(arguments.out, ".ckpt"))
    # Results beside the checkpoints of a run are its own, perhaps half of them: it was killed in writing.
    overwrite = arguments.overwrite or resumed
    try:
        folder = ResultFolder(arguments.out, overwrite=overwrite, stale=RESULTS)
    except FileExistsError as error:
        raise InputError(f"--out: {error}" + (" (--overwrite)" if arguments.out.is_dir() else "")) from error
    except OSError as error:
        raise InputError(f"--out: {arguments.out} cannot be written: {error.strerror or error}.") from error
    say = _silent if arguments.quiet else print
    with folder, jax.enable_x64(True) if arguments.x64 else nullcontext():
        name, make, extra_fields = KERNELS[arguments.kernel]
        say(
            f"{case.name}: {name}, {arguments.chains} chains of {arguments.warmup} warm-up iterations "
            f"and {arguments.draws} draws"
        )
        if arguments.resume:
            checkpoints = _beside(arguments.out, ".ckpt")
            say(f"continuing {checkpoints}" if resumed else f"{checkpoints} holds no run: starting one")
        start = time.perf_counter()
        mcmc = _run(case, make, extra_fields, arguments, resumed=resumed)
        seconds = time.perf_counter() - start
        attrs = {"model": case.name, "kernel": name, "wall_seconds": round(seconds, 3)}
        attrs["precision"] = "float64" if jax.config.read("jax_enable_x64") else "float32"
        progress = Progress(quiet=arguments.quiet)
        with progress:
            progress("summary")
            comparison, wrong = _compare(case, mcmc)
            found = Analysis(mcmc, attrs, further=wrong)
            table = found.table
            progress("diagnosis")
            findings = found.findings
        say(f"\n{format_summary(table)}\n")
        say(_evaluations_line(found.tree.attrs, seconds))
        if comparison:
            say(f"\nAgainst reference values\n{comparison}")
        say(f"\n{findings.verdict}")
        for finding in findings:
            print(f"- {finding}", file=sys.stderr if arguments.quiet else sys.stdout)

        with progress:
            progress("files")
            found.to_netcdf(folder.staging / "posterior.nc")
            table.to_csv(folder.staging / "summary.csv", index_label="parameter")
            progress("plots")
            images = found.save_plots(folder.staging / "plots")
            report(found, folder.staging / "report.html", comparison=comparison)
        folder.publish()
    say(f"\nWritten to {arguments.out}: posterior.nc, summary.csv, report.html and {len(images)} plots")
    return OK if findings.good or arguments.allow_bad else BAD_VERDICT


def _beside(out: Path, suffix: str) -> Path:
    """`DIR.ckpt` or `DIR.zarr` for the folder `DIR`, which may be written as `.`."""
    named = out if out.name not in ("", "..") else out.resolve()
    return named.with_name(f"{named.name}{suffix}")


def _silent(text: str) -> None:
    del text


def _run(
    case: ModelCase,
    make: Callable[[Callable], Any],
    extra_fields: tuple[str, ...],
    arguments: argparse.Namespace,
    *,
    resumed: bool,
) -> Any:
    checkpoints = _beside(arguments.out, ".ckpt")
    kept = arguments.resume or arguments.checkpoint_every
    until = {"ess": arguments.until_ess, "max_time": arguments.max_time}
    try:
        mcmc = MCMC(
            make(case.model),
            num_warmup=arguments.warmup,
            num_samples=arguments.draws,
            num_chains=arguments.chains,
            chain_batch=arguments.chain_batch,
            devices=arguments.devices,
            checkpoint=checkpoints if kept else None,
            every=arguments.checkpoint_every or EVERY,
            store=_beside(arguments.out, ".zarr") if arguments.store else None,
            until=until if any(until.values()) else None,
            progress_bar=sys.stderr.isatty() and not arguments.quiet,
        )
        if resumed:
            mcmc.resume(checkpoints, **case.data)
        else:
            mcmc.run(jax.random.key(arguments.seed), extra_fields=extra_fields, **case.data)
        return mcmc
    except (CheckpointError, StoreError) as error:
        raise InputError(f"{case.name}: {one_line(error)}") from error
    except Exception as error:  # whatever the user's model raises
        raise InputError(f"{case.name} cannot be sampled: {failure(case, error)}") from error


def _compare(case: ModelCase, mcmc: Any) -> tuple[str, list[Finding]]:
    """The comparison with the model's reference values as text, and what it says against the draws."""
    if case.reference is None:
        return "", []
    head = textwrap.fill(f"Source: {case.reference['source']}", 100)
    try:
        compared = compare_with_reference(mcmc.get_samples(group_by_chain=True), case.reference)
    except ValueError as error:
        return f"{head}\nnot compared: {error}", []
    text = f"{head}\n{compared}\nLargest error: {compared.largest_error:.2f} standard errors"
    if compared.largest_error <= MAX_ERROR:
        return text, []
    message = f"The draws are {compared.largest_error:.1f} standard errors away from the reference values."
    return text, [
        Finding("reference", message, "Warm up for longer; if it stays, the sampler is wrong here.")
    ]


def _evaluations_line(attrs: Any, seconds: float) -> str:
    words = [
        f"{int(attrs[name]):,} in {phase}"
        for name, phase in (("warmup_evals", "warm-up"), ("sampling_evals", "sampling"))
        if name in attrs
    ]
    return f"Evaluations of the log density: {', '.join(words)}; wall time {seconds:.1f} s with compilation"
