"""Records as a table: CSV for programs, Markdown for people, and what each peer costs against a kernel."""

import csv
import io
import math
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

from qdesampler.bench.harness.record import Record, Settings
from qdesampler.unfinished import replacing

__all__ = [
    "SUFFIXES",
    "best_peer",
    "cell",
    "csv_text",
    "geometric_mean",
    "header",
    "markdown_table",
    "savings",
    "to_csv",
    "to_markdown",
    "write",
]

COLUMNS = tuple(column.name for column in fields(Record))
SUFFIXES = (".csv", ".md")
SUBJECT = "qde"  # kernels of this name, or whose name begins so, are compared with all others
BEST = "best peer"
NOTES = (
    "ESS: ArviZ's mean ESS over all chains of x and of x^2, smallest over the model's latent scalars in "
    "constrained space; for weighted independent draws 1 / sum w^2.",
    "Evaluations: log-density gradients of all chains, rejected work included, a value alone counts one too. "
    "nutpie and Pathfinder choose their own warm-up.",
    "evals_to_400: warm-up + sampling * 400 / ESS. It is extrapolated, downwards where the run has more than "
    "400 effective draws and upwards where reached_400 is False.",
    "b2_mean, b2_max: thousands of evaluations of one chain after the warm-up until its mean of x^2 stays "
    "within a tenth of a standard deviation of x^2, on average over the scalars and for the worst; inf: not "
    "within the run.",
    "error_sd, error_se: largest error of a mean of x or x^2 against the reference, in posterior standard "
    "deviations and in combined standard errors; sd_error: largest relative error of a standard deviation.",
    "A run fails that raises, is not finite, never moves, or has R-hat > 1.05, Pareto k > 0.7 or ESS < 50. "
    "Failed runs keep their figures and are counted, but are no part of a mean.",
    "compile_s: what JAX reports for tracing, lowering and compiling in the one run, caches empty at its "
    "start; run_s: the rest of the wall time.",
)


def header(settings: Settings) -> dict[str, str]:
    """What the figures depend on: settings, versions, machine, date."""
    packages = ("qdesampler", "jax", "numpyro", "numpy", "arviz-stats", "blackjax", "nutpie")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "settings": f"{settings.chains} vectorized chains, {settings.warmup} warm-up and {settings.draws} "
        f"draws each, float{64 if jax.config.jax_enable_x64 else 32}",
        "versions": ", ".join(
            [f"python {platform.python_version()}", *filter(None, map(_version, packages))]
        ),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores, "
        f"JAX on {jax.devices()[0].device_kind}",
    }


def geometric_mean(values: Iterable[float]) -> float:
    """`exp(mean log v)` of positive numbers."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def savings(
    records: Sequence[Record], subject: str, peer: str, column: str = "evals_to_400"
) -> dict[str, float]:
    """How many times less of `column` the subject needs than the peer: `{model: ratio}`.

    Runs are paired by model and seed, and a model's ratio is the geometric mean over the seeds on which
    neither failed. Models without such a pair are missing.
    """
    values = {(r.kernel, r.model, r.seed): getattr(r, column) for r in records if not r.failed}
    found: dict[str, list[float]] = {}
    for (kernel, model, seed), value in values.items():
        other = values.get((peer, model, seed))
        if kernel == subject and value and other:
            found.setdefault(model, []).append(other / value)
    return {model: geometric_mean(ratios) for model, ratios in found.items()}


def best_peer(records: Sequence[Record], peers: Sequence[str]) -> list[Record]:
    """For every model and seed the peers' run that needs fewest evaluations, as a kernel of its own.

    Where all failed, one of the failed runs stands for them.
    """
    best: dict[tuple[str, int], Record] = {}
    for record in (r for r in records if r.kernel in peers):
        place = (record.model, record.seed)
        if place not in best or _cost(record) < _cost(best[place]):
            best[place] = record
    rows = [{**vars(record), "kernel": BEST} for record in best.values()]
    return [Record(**row) for row in rows]


def to_csv(records: Sequence[Record], about: dict[str, str]) -> str:
    """Comment lines `# name: value`, then one row a record (`pandas.read_csv(file, comment="#")`)."""
    return csv_text(COLUMNS, [astuple(record) for record in records], about)


def csv_text(columns: Sequence[str], rows: Sequence[Sequence], about: dict[str, str]) -> str:
    """Comment lines, the names of the columns, and the rows."""
    text = io.StringIO()
    for name, value in about.items():
        text.write(f"# {name}: {value}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


def to_markdown(records: Sequence[Record], about: dict[str, str]) -> str:
    """The header, the table of all runs, and each subject against each peer.

    Subjects are the kernels called `qde` or `qde-...`, or the first kernel if there are none.
    """
    kernels = list(dict.fromkeys(r.kernel for r in records))
    subjects = [k for k in kernels if k.split("-")[0] == SUBJECT] or kernels[:1]
    peers = [k for k in kernels if k not in subjects]
    parts = ["\n".join(f"- {name}: {value}" for name, value in about.items())]
    parts.append(markdown_table(COLUMNS, [[cell(value) for value in astuple(r)] for r in records]))
    for subject in subjects:
        if peers:
            parts.append(
                f"How many times fewer evaluations {subject} needs until ESS 400 than each peer (warm-up "
                "included; means are geometric, first over seeds, then over models; below 1 the peer wins):"
            )
            parts.append(_comparison(records, subject, peers))
    parts.append(_failures(records))
    parts.append("\n".join(f"- {note}" for note in NOTES))
    return "\n\n".join(parts) + "\n"


def write(path: Path, records: Sequence[Record], about: dict[str, str]) -> None:
    """Write `.csv` or `.md`, by the suffix.

    Raises:
        ValueError: for another suffix.
    """
    makers = dict(zip(SUFFIXES, (to_csv, to_markdown), strict=True))
    if path.suffix not in makers:
        raise ValueError(f"cannot write {path}: expected a name that ends in {' or '.join(SUFFIXES)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(makers[path.suffix](records, about).encode())


def _cost(record: Record) -> float:
    return math.inf if record.failed or record.evals_to_400 is None else record.evals_to_400


def _comparison(records: Sequence[Record], subject: str, peers: Sequence[str]) -> str:
    models = list(dict.fromkeys(r.model for r in records))
    everything = [*records, *(best_peer(records, peers) if len(peers) > 1 else [])]
    rows = []
    for peer in [*peers, *([BEST] if len(peers) > 1 else [])]:
        ratios = savings(everything, subject, peer)
        cells = [
            f"{ratios[m]:.2f}" if m in ratios else _why_not(everything, subject, peer, m) for m in models
        ]
        sampling = savings(everything, peer, subject, "per_1000_sampling")  # more is better: roles swapped
        mean, least = (
            (f"{geometric_mean(ratios.values()):.2f}", f"{min(ratios.values()):.2f}") if ratios else ("", "")
        )
        alone = f"{geometric_mean(sampling.values()):.2f}" if sampling else ""
        failed = Counter(r.kernel for r in everything if r.failed)
        rows.append(
            [
                peer,
                *cells,
                mean,
                least,
                alone,
                f"{len(ratios)} of {len(models)}",
                str(failed[subject]),
                str(failed[peer]),
            ]
        )
    names = ("geometric mean", "least", "sampling alone", "models", f"{subject} failed", "peer failed")
    return markdown_table(("peer", *models, *names), rows)


def _why_not(records: Sequence[Record], subject: str, peer: str, model: str) -> str:
    ran = {
        kernel: [r for r in records if (r.kernel, r.model) == (kernel, model)] for kernel in (subject, peer)
    }
    failed = [kernel for kernel, runs in ran.items() if runs and all(r.failed for r in runs)]
    if failed:
        return " and ".join(failed) + " failed"
    return "no pair"


def _failures(records: Sequence[Record]) -> str:
    failed = [r for r in records if r.failed]
    lines = [f"Failed runs: {len(failed)} of {len(records)}"]
    for kernel in dict.fromkeys(r.kernel for r in records):
        of_kernel = [r for r in failed if r.kernel == kernel]
        if of_kernel:
            where = ", ".join(f"{r.model} seed {r.seed}" for r in of_kernel)
            runs = sum(r.kernel == kernel for r in records)
            lines.append(f"- {kernel}: {len(of_kernel)} of {runs} ({where})")
    return "\n".join(lines)


def cell(value: float | int | str | None) -> str:
    """A value in a table: four digits of a number, nothing for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, with bars in them replaced."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def _version(package: str) -> str | None:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # an optional peer
        return None


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git repository)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )
