"""Records as a table: CSV for programs, Markdown for people, and the ratios against a base kernel."""

import csv
import io
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax

from qdesampler.bench.measure import Record, Settings

__all__ = ["SUFFIXES", "geometric_mean", "header", "ratios", "to_csv", "to_markdown", "write"]

COLUMNS = tuple(column.name for column in fields(Record))
SUFFIXES = (".csv", ".md")
RATIO_COLUMNS = ("per_1000_sampling", "per_1000_total")
NOTES = (
    "ESS: ArviZ's mean ESS over all chains of x and of x^2, smallest over the model's latent scalars in "
    "constrained space.",
    "Evaluations: log-density gradients of all chains, rejected work included; total = warm-up + sampling.",
    "error_sd, error_se: largest error of a mean of x or x^2 against the reference, in posterior standard "
    "deviations and in combined standard errors.",
)


def header(settings: Settings) -> dict[str, str]:
    """What the figures depend on: settings, versions, machine, date."""
    packages = ("qdesampler", "jax", "numpyro", "numpy", "arviz-stats")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "settings": f"{settings.chains} vectorized chains, {settings.warmup} warm-up and {settings.draws} "
        f"draws each, float{64 if jax.config.jax_enable_x64 else 32}",
        "versions": ", ".join(
            [f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
        ),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores, "
        f"JAX on {jax.devices()[0].device_kind}",
    }


def geometric_mean(values: Iterable[float]) -> float:
    """`exp(mean log v)` of positive numbers."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def ratios(records: Sequence[Record], column: str, base: str = "nuts") -> dict[str, dict[str, float]]:
    """How many times better than `base` each kernel is in `column`: `{kernel: {model: ratio}}`.

    Runs are paired by model and seed, and a model's ratio is the geometric mean over the seeds that neither
    kernel failed on. Models without such a pair are missing from the inner dict.
    """
    values = {(r.kernel, r.model, r.seed): getattr(r, column) for r in records if not r.failed}
    gains: dict[str, dict[str, list[float]]] = {}
    for (kernel, model, seed), value in values.items():
        other = values.get((base, model, seed))
        if kernel != base and value and other:
            gains.setdefault(kernel, {}).setdefault(model, []).append(value / other)
    return {
        kernel: {model: geometric_mean(found) for model, found in models.items()}
        for kernel, models in gains.items()
    }


def to_csv(records: Sequence[Record], about: dict[str, str]) -> str:
    """Comment lines `# name: value`, then one row a record (`pandas.read_csv(file, comment="#")`)."""
    text = io.StringIO()
    for name, value in about.items():
        text.write(f"# {name}: {value}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in astuple(record)] for record in records)
    return text.getvalue()


def to_markdown(records: Sequence[Record], about: dict[str, str], base: str = "nuts") -> str:
    """The header, the table of all runs, and the ratios against `base`."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in about.items())]
    parts.append(_markdown_table(COLUMNS, [[_cell(value) for value in astuple(r)] for r in records]))
    models = list(dict.fromkeys(r.model for r in records))
    doubtful = {r.model for r in records if r.status != "ok"}
    for column in RATIO_COLUMNS:
        found = ratios(records, column, base)
        if not found:
            continue
        rows = []
        for kernel, by_model in found.items():
            mean = geometric_mean(by_model.values())
            cells = [f"{by_model[m]:.2f}" if m in by_model else "failed" for m in models]
            rows.append([kernel, *cells, f"{mean:.2f} (of {len(by_model)} of {len(models)} models)"])
        parts.append(f"Ratio to {base}, {column}, geometric mean over seeds:")
        names = [f"{m} (!)" if m in doubtful else m for m in models]
        parts.append(_markdown_table(("kernel", *names, "geometric mean"), rows))
    parts.append(
        f"Failed runs: {sum(r.failed for r in records)} of {len(records)}; ratios are without them. "
        "(!) marks models where some run failed or did not converge."
    )
    parts.append("\n".join(NOTES))
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
    path.write_text(makers[path.suffix](records, about), encoding="utf-8")


def _cell(value: float | int | str | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


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
