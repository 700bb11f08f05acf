"""The evidence and the masses of modes, by AnnealedQDE and by its peers, against known truths.

    python -m qdesampler.bench.evidence --targets double-well --methods annealed,tempering --out evidence.md
    python -m qdesampler.bench.evidence --methods annealed --without pilot,map --out ablation.md

The `evaluations to target` of a method are those at which the root mean square error over seeds would be 0.05
in log Z and 0.02 in the mass of a mode. The draws are scaled by the squared excess of the error and the
warm-up is added; a method without draws is scaled as a whole. With few seeds such an error is itself
uncertain by tens of per cent.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qdesampler.bench.evidence.methods import CHAINS, METHODS, annealed
from qdesampler.bench.evidence.result import Result, Sizes
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.bench.targets.evidence import EVIDENCE_TARGETS, EvidenceTarget
from qdesampler.bench.targets.evidence_posteriors import MULTIMODAL_POSTERIORS
from qdesampler.infer.annealed.search import PARTS

__all__ = ["main", "row"]

CLOSE, CLOSE_MASS = 0.05, 0.02  # root mean square errors aimed at: nats of log Z, mass of a mode
TARGETS = {**EVIDENCE_TARGETS, **MULTIMODAL_POSTERIORS}
COLUMNS = (
    "target",
    "method",
    "mean error",
    "rms error",
    "within 0.05",
    "within 2 se",
    "mean se",
    "rms mass error",
    "evaluations",
    "evaluations to target",
    "evaluations a round trip",
    "alarms",
    "CPU s",
)


def evaluations_to_target(results: Sequence[Result], target: EvidenceTarget) -> float:
    """Evaluations of one seed at which both root mean square errors would reach `CLOSE` and `CLOSE_MASS`."""
    excess = _rms([r.log_evidence - target.log_evidence for r in results]) / CLOSE
    excess = 0.0 if math.isnan(excess) else excess  # a method without an evidence
    if target.mass is not None:
        excess = max(excess, _rms([r.mass - target.mass for r in results]) / CLOSE_MASS)
    warmup = float(np.mean([r.warmup_evals for r in results]))
    draws = float(np.mean([r.draw_evals for r in results]))
    return warmup + draws * excess**2 if draws else warmup * max(excess**2, 1.0)


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def row(
    target_name: str, target: EvidenceTarget, method: str, results: Sequence[Result], seconds: float
) -> str:
    """One line of the table."""
    errors = np.array([r.log_evidence - target.log_evidence for r in results])
    stated = np.array([r.error for r in results])
    blind = bool(np.all(np.isnan(errors)))
    covered = "-" if np.all(np.isnan(stated)) else f"{np.sum(np.abs(errors) <= 2 * stated)}/{errors.size}"
    mass = "-" if target.mass is None else f"{_rms([r.mass - target.mass for r in results]):.4f}"
    evals = np.mean([r.warmup_evals + r.draw_evals for r in results])
    alarms = sorted({code for r in results for code in r.alarms})
    counted = ", ".join(f"{code} {sum(code in r.alarms for r in results)}" for code in alarms)
    trips = float(np.sum([r.round_trips for r in results]))
    cells = (
        target_name,
        method,
        "-" if blind else f"{errors.mean():+.3f}",
        "-" if blind else f"{_rms(list(errors)):.3f}",
        "-" if blind else f"{np.sum(np.abs(errors) <= CLOSE)}/{errors.size}",
        covered,
        "-" if math.isnan(float(np.mean(stated))) else f"{np.mean(stated):.3f}",
        mass,
        f"{evals:,.0f}",
        f"{evaluations_to_target(results, target):,.0f}",
        "-" if math.isnan(trips) else f"{np.sum([r.draw_evals for r in results]) / max(trips, 1):,.0f}",
        counted or "-",
        f"{seconds:.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; the file is rewritten after every row, so that a stopped run keeps them."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.evidence", description=__doc__)
    parser.add_argument("--targets", default="all", help=f"all, or of {', '.join(TARGETS)}")
    parser.add_argument("--methods", default="annealed,tempering", help=f"all, or of {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument(
        "--without",
        default="",
        help=f"AnnealedQDE once more without each of these parts of its search: {', '.join(PARTS)}",
    )
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    chosen = []
    for name, table in (("targets", TARGETS), ("methods", METHODS)):
        asked = getattr(options, name)
        names = list(table) if asked == "all" else asked.split(",")
        unknown = [one for one in names if one not in table]
        if unknown:
            parser.error(f"--{name} {','.join(unknown)}: expected all, or of {', '.join(table)}")
        chosen.append(names)
    methods = {method: METHODS[method] for method in chosen[1]}
    for part in filter(None, options.without.split(",")):
        if part not in PARTS:
            parser.error(f"--without {part}: expected of {', '.join(PARTS)}")
        methods[f"annealed without {part}"] = annealed(without=(part,))
    for name, least in (("seeds", 1), ("warmup", 64), ("draws", 64)):
        if getattr(options, name) < least:
            parser.error(f"--{name} {getattr(options, name)}: expected at least {least}")
    sizes = Sizes(options.warmup, options.draws, options.seeds)
    about = header(Settings(CHAINS, sizes.warmup, sizes.draws))
    lines = [f"- {name}: {value}" for name, value in about.items()]
    lines += [f"- seeds: {sizes.seeds}, {CHAINS} chains each", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    print("\n".join(lines), flush=True)
    for name in chosen[0]:
        target = TARGETS[name]()
        for method, measure in methods.items():
            began = time.process_time()
            try:
                results = measure(target, sizes)
            except (RuntimeError, ValueError) as error:
                lines.append(
                    f"| {name} | {method} | failed: {str(error)[:120]} |" + " |" * (len(COLUMNS) - 3)
                )
            else:
                lines.append(row(name, target, method, results, time.process_time() - began))
            print(lines[-1], flush=True)
            if options.out is not None:
                options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
