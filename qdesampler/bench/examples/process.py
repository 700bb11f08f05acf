"""One run of one sampler on one example in a cold process, judged."""

import json
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qdesampler.bench.examples.example import Example
from qdesampler.bench.examples.worker import UNCONSTRAINED
from qdesampler.bench.harness.outcome import Outcome
from qdesampler.bench.harness.process import run_cold
from qdesampler.bench.harness.record import TARGET_ESS, Record, Settings
from qdesampler.bench.measurement import judge

__all__ = ["Run", "run"]


@dataclass(frozen=True)
class Run:
    """A row of the table.

    Attributes:
        record: evaluations, effective draws and status, as in `qdesampler.bench`.
        group: of the example.
        settings: chains, warm-up and draws.
        cpu_s: CPU seconds of the whole process, imports and compilation included; None where it failed or
            compiled programs were taken from a cache.
        warned: Python warnings, the codes of QDE's findings, NUTS's divergences; empty if nothing warned.
    """

    record: Record
    group: str
    settings: Settings
    cpu_s: float | None = None
    warned: str = ""

    @property
    def charged_s(self) -> float | None:
        """CPU seconds to 400 effective draws: never less than the seconds of the process."""
        smallest = min(self.record.ess or 0.0, self.record.ess_sq or 0.0)
        return self.cpu_s * max(1.0, TARGET_ESS / smallest) if self.cpu_s and smallest > 0 else None


def run(
    built: Example, kernel: str, seed: int, settings: Settings, timeout: float, cache: bool = False
) -> Run:
    """Sample in a new process; a crash, an error and the end of the time become the record's status.

    Args:
        built: what the builder of the example returned; the process builds its own, by name.
        kernel: a name in `SAMPLERS`.
        seed: of the run.
        settings: chains, warm-up and draws.
        timeout: wall seconds after which the process is ended.
        cache: leave JAX's compilation cache as the environment has it. The seconds are then not kept.
    """
    name, numbers = built.case.name, (settings.chains, seed, settings.warmup, settings.draws)
    row = Run(Record(name, kernel, seed), built.group, settings)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "draws.npz"
        command = ["-m", "qdesampler.bench.examples.worker", name, kernel, *map(str, numbers), str(out)]
        try:
            done = run_cold(command, timeout, cache)
        except subprocess.TimeoutExpired:
            return _failed(row, f"no end within {timeout:g} s")
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["nothing on stderr"]
            return _failed(row, f"process ended with code {done.returncode}: {lines[-1]}")
        with np.load(out, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    report = json.loads(str(arrays.pop("report")))
    record = judge(row.record, built.case, _outcome(built, arrays, report))
    warned = [*report["findings"], *report["warnings"]]
    if kernel == "nuts" and report["divergences"]:
        warned.append(f"{report['divergences']} divergences")
    return replace(row, record=record, cpu_s=None if cache else report["cpu_s"], warned="; ".join(warned))


def _failed(row: Run, reason: str) -> Run:
    return replace(row, record=replace(row.record, status=f"failed: {reason}"[:200]))


def _outcome(built: Example, arrays: dict[str, np.ndarray], report: dict) -> Outcome:
    evals = arrays.pop("num_evals")
    latent = {key: x for key, x in arrays.items() if key.startswith(UNCONSTRAINED)}
    constrained = {key: x for key, x in arrays.items() if key not in latent}
    judged = built.summary(constrained) if built.summary else latent
    return Outcome(
        samples=judged,
        sites=tuple(judged),
        dim=sum(x[0, 0].size for x in latent.values()),
        warmup_evals=report["warmup_evals"],
        draw_evals=evals,
        divergences=report["divergences"],
    )
