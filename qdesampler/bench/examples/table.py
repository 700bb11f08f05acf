"""QDE beside NUTS, model by model, and the bars that the whole is held to."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdesampler.bench.examples.process import Run
from qdesampler.bench.harness.record import Record, Settings
from qdesampler.bench.harness.table import cell, csv_text, geometric_mean, markdown_table

__all__ = ["COLUMNS", "Comparison", "bars", "compare", "read_runs", "to_csv", "to_markdown"]

SUBJECT, PEER = "qde", "nuts"
COUNTS = ("dim", "warmup_evals", "sampling_evals", "divergences")  # fields of a record that are integers
FIGURES = ("ess", "ess_sq", "evals_to_400", "rhat")  # and real numbers
COLUMNS = (
    *("model", "group", "chains", "kernel", "seed", "status", "warmup", "draws"),
    *COUNTS,
    *FIGURES,
    *("cpu_s", "charged_s", "warned"),
)
NOTES = (
    "Evaluations: log-density gradients of all chains until the least ESS of x and of x^2 is 400, the "
    "warm-up included; extrapolated from the run. ESS: ArviZ's mean ESS over all chains, least over the "
    "unconstrained coordinates, or over the summary of a model whose labels or signs can be exchanged.",
    "Saved: NUTS's evaluations over QDE's. ESS ratio: QDE's over NUTS's, of equally many draws. CPU ratio: "
    "QDE's seconds over NUTS's, each of a whole cold process and charged 400 / ESS where the run has fewer "
    "than 400. Ratios are of runs that neither sampler failed, geometric means over the seeds.",
    "A run fails that raises, has no end in time, is not finite, never moves, or has R-hat > 1.05 or "
    "ESS < 50.",
    "Warned: runs with a Python warning, a finding of `qdesampler.diagnose` (QDE) or a divergence (NUTS). "
    "A run that ends with an error or not at all has said so itself.",
)


@dataclass(frozen=True)
class Comparison:
    """One model with one number of chains.

    Attributes:
        model, group, chains: what was run.
        evaluations, peer_evaluations: to ESS 400, geometric means over the runs that did not fail.
        saved, ess_ratio, cpu_ratio: see `NOTES`; None without a pair of runs that did not fail.
        runs, failed, warned: numbers of QDE's runs.
        peer_runs, peer_failed, peer_warned: of NUTS's.
        lost: seeds on which QDE failed and NUTS did not.
        silent: seeds on which QDE failed and nothing warned.
    """

    model: str
    group: str
    chains: int
    evaluations: float | None
    peer_evaluations: float | None
    saved: float | None
    ess_ratio: float | None
    cpu_ratio: float | None
    runs: int
    failed: int
    warned: int
    peer_runs: int
    peer_failed: int
    peer_warned: int
    lost: tuple[int, ...]
    silent: tuple[int, ...]


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value]
    return geometric_mean(found) if found else None


def _ratios(pairs: Iterable[tuple[float | None, float | None]]) -> float | None:
    return _mean(a / b for a, b in pairs if a and b)


def _smallest(run: Run) -> float | None:
    record = run.record
    return None if record.ess is None or record.ess_sq is None else min(record.ess, record.ess_sq)


def _has_warned(run: Run) -> bool:
    return bool(run.warned) or run.record.ess is None  # no draws: an error, or no end


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """A comparison for every model and number of chains, in the order of their first runs."""
    places = dict.fromkeys((run.record.model, run.group, run.settings.chains) for run in runs)
    return [_comparison(*place, runs) for place in places]


def _comparison(model: str, group: str, chains: int, runs: Sequence[Run]) -> Comparison:
    here = [run for run in runs if run.record.model == model and run.settings.chains == chains]
    mine, other = ({r.record.seed: r for r in here if r.record.kernel == k} for k in (SUBJECT, PEER))
    good, other_good = (
        {seed: run for seed, run in of.items() if not run.record.failed} for of in (mine, other)
    )
    pairs = [(run, other_good[seed]) for seed, run in good.items() if seed in other_good]
    return Comparison(
        model=model,
        group=group,
        chains=chains,
        evaluations=_mean(run.record.evals_to_400 for run in good.values()),
        peer_evaluations=_mean(run.record.evals_to_400 for run in other_good.values()),
        saved=_ratios((b.record.evals_to_400, a.record.evals_to_400) for a, b in pairs),
        ess_ratio=_ratios((_smallest(a), _smallest(b)) for a, b in pairs),
        cpu_ratio=_ratios((a.charged_s, b.charged_s) for a, b in pairs),
        runs=len(mine),
        failed=len(mine) - len(good),
        warned=sum(map(_has_warned, mine.values())),
        peer_runs=len(other),
        peer_failed=len(other) - len(other_good),
        peer_warned=sum(map(_has_warned, other.values())),
        lost=tuple(seed for seed in mine if seed not in good and seed in other_good),
        silent=tuple(seed for seed, run in mine.items() if run.record.failed and not _has_warned(run)),
    )


def _keeps(least_mean: float, least: float) -> Callable[[list[float]], bool]:
    return lambda values: geometric_mean(values) >= least_mean and min(values) >= least


def _stays(largest_mean: float, largest: float) -> Callable[[list[float]], bool]:
    return lambda values: geometric_mean(values) <= largest_mean and max(values) <= largest


# Column, group (None: all), the bar in words and whether a list of ratios reaches it.
RATIO_BARS = (
    ("ess_ratio", None, "effective draws of equal draws: mean >= 1, each >= .5", _keeps(1.0, 0.5)),
    ("saved", None, "evaluations: mean >= 8 times fewer, none above 1.2 times", _keeps(8.0, 1 / 1.2)),
    ("cpu_ratio", None, "cold CPU: mean <= .8, none above 1.2", _stays(0.8, 1.2)),
    (
        "saved",
        "hierarchies",
        "hierarchies, evaluations: mean >= 10 times fewer, none below 4",
        _keeps(10.0, 4.0),
    ),
)


def bars(found: Sequence[Comparison]) -> list[tuple[str, str, bool | None]]:
    """Each bar, what was found, and whether it is reached; None where there is nothing to judge."""
    lost = [f"{c.model} ({c.chains} chains, seed {seed})" for c in found for seed in c.lost]
    silent = [f"{c.model} ({c.chains} chains, seed {seed})" for c in found for seed in c.silent]
    rows: list[tuple[str, str, bool | None]] = [
        ("QDE fails on none that NUTS samples", ", ".join(lost) or "none", not lost if found else None)
    ]
    for column, group, words, reached in RATIO_BARS:
        chosen = [c for c in found if group is None or c.group == group]
        values = {(c.model, c.chains): getattr(c, column) for c in chosen if getattr(c, column) is not None}
        if not values:
            rows.append((words, "no pair of runs", None))
            continue
        low, high = min(values, key=lambda at: values[at]), max(values, key=lambda at: values[at])
        text = (
            f"mean {geometric_mean(values.values()):.3g} of {len(values)}, "
            f"least {values[low]:.3g} ({low[0]}, {low[1]} chains), "
            f"largest {values[high]:.3g} ({high[0]}, {high[1]} chains)"
        )
        rows.append((words, text, reached(list(values.values()))))
    rows.append(
        ("warnings on all failed runs", ", ".join(silent) or "none silent", not silent if found else None)
    )
    return rows


def to_markdown(runs: Sequence[Run], about: dict[str, str]) -> str:
    """The header, a row for each model and number of chains, the bars, and what failed."""
    found = compare(runs)
    names = ("model", "chains", "QDE evaluations", "NUTS evaluations", "saved", "ESS ratio", "CPU ratio")
    names = (*names, "QDE failed", "NUTS failed", "QDE warned", "NUTS warned")
    rows = [
        [
            c.model,
            str(c.chains),
            *map(cell, (c.evaluations, c.peer_evaluations)),
            *("" if ratio is None else f"{ratio:.2f}" for ratio in (c.saved, c.ess_ratio, c.cpu_ratio)),
            *(
                f"{c.failed} of {c.runs}",
                f"{c.peer_failed} of {c.peer_runs}",
                str(c.warned),
                str(c.peer_warned),
            ),
        ]
        for c in found
    ]
    parts = ["\n".join(f"- {name}: {value}" for name, value in about.items()), markdown_table(names, rows)]
    by_chains = {
        f"{n} chains": [c for c in found if c.chains == n] for n in sorted({c.chains for c in found})
    }
    for name, chosen in (by_chains | {"all": found} if len(by_chains) > 1 else by_chains).items():
        words = {True: "yes", False: "no", None: ""}
        lines = [[bar, text, words[reached]] for bar, text, reached in bars(chosen)]
        parts.append(markdown_table((f"bar, {name}", "found", "reached"), lines))
    failed = [run for run in runs if run.record.failed]
    lines = [f"Failed runs: {len(failed)} of {len(runs)}"]
    for run in failed:
        record, said = run.record, run.warned or ("nothing warned" if run.record.ess is not None else "")
        where = f"{record.model}, {record.kernel}, {run.settings.chains} chains, seed {record.seed}"
        lines.append(f"- {where}: {record.status.removeprefix('failed: ')}" + (f" ({said})" if said else ""))
    parts += ["\n".join(lines), "\n".join(f"- {note}" for note in NOTES)]
    return "\n\n".join(parts) + "\n"


def to_csv(runs: Sequence[Run], about: dict[str, str]) -> str:
    """Comment lines, then a row for each run."""
    rows = [
        [
            *(run.record.model, run.group, run.settings.chains, run.record.kernel, run.record.seed),
            *(run.record.status, run.settings.warmup, run.settings.draws),
            *(getattr(run.record, column) for column in (*COUNTS, *FIGURES)),
            *(run.cpu_s, run.charged_s, run.warned),
        ]
        for run in runs
    ]
    return csv_text(COLUMNS, rows, about)


def read_runs(path: Path) -> list[Run]:
    """The runs of a file that `to_csv` wrote.

    Raises:
        ValueError: the file has other columns.
    """
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(True) if not line.startswith("#")]
    reader = csv.DictReader(io.StringIO("".join(lines)))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(
            f"{path} has the columns {reader.fieldnames}; expected those of this command's own files: "
            f"{', '.join(COLUMNS)}."
        )
    runs = []
    for row in reader:
        counts: dict[str, Any] = {name: int(row[name]) for name in COUNTS if row[name]}
        figures: dict[str, Any] = {name: float(row[name]) for name in FIGURES if row[name]}
        record = Record(
            row["model"], row["kernel"], int(row["seed"]), status=row["status"], **counts, **figures
        )
        settings = Settings(int(row["chains"]), int(row["warmup"]), int(row["draws"]))
        cpu_s = float(row["cpu_s"]) if row["cpu_s"] else None
        runs.append(Run(record, row["group"], settings, cpu_s, row["warned"]))
    return runs
