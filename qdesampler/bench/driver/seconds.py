"""CPU seconds of whole cold processes, from the shell's prompt to finished draws.

    python -m qdesampler.bench.driver.seconds models/eight_schools
    python -m qdesampler.bench.driver.seconds models/* --repeats 3 --nutpie --out seconds.json

Every repeat starts one new process for each sampler in turn, so that a change of the machine's load meets
them all. A process imports only what its sampler needs: NUTS's never imports qdesampler. CPU seconds are user
and system time of all threads. A run with fewer than 400 effective draws of some x or x^2 is charged
400 / ESS times its seconds.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qdesampler.bench.harness.process import run_cold
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.infer import load_model

__all__ = ["IMPORTS", "Cost", "main", "measure_process"]

# The kernel's and the driver's class under one name.
IMPORTS = {
    "nuts": "from numpyro.infer import NUTS as Kernel, MCMC",
    "qde": "from numpyro.infer import MCMC\nfrom qdesampler import QDE as Kernel",
    "qde, our driver": "from qdesampler import QDE as Kernel, MCMC",
    "nutpie": "from qdesampler.bench.peers.nutpie import sample_with_nutpie\nimport nutpie",
}
_OPTIONAL = ("nutpie",)  # measured on demand
_NUTPIE_TUNE = 400  # iterations; those of fourteen.md
_WANTED_ESS = 400  # effective draws to which seconds are charged

# The model's own two files, run as they are: a loader would belong to one side.
PROGRAM = """
import json, resource, runpy, sys
import jax, numpy
{imports}
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
imported, programs = cpu(), []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: programs.append(seconds) if "backend_compile" in event else None)
folder, seed, chains, warmup, draws = sys.argv[1], *map(int, sys.argv[2:])
{sample}
total, programs = cpu(), len(programs)
from numpyro.diagnostics import effective_sample_size
kept = [x for x in samples.values() if x.size and numpy.all(numpy.std(x, axis=(0, 1)) > 0)]
ess = min(float(numpy.min(effective_sample_size(numpy.asarray(x, float) ** k))) for x in kept for k in (1, 2))
print(json.dumps({{"imports": imported, "total": total, "programs": programs, "ess": ess,
                  "draws": int(kept[0].shape[0] * kept[0].shape[1])}}))
"""

_BY_MCMC = """
names = runpy.run_path(folder + "/model.py")
with open(folder + "/data.json") as file:
    data = {k: numpy.asarray(v) if isinstance(v, list) else v for k, v in json.load(file).items()}
if "prepare" in names:
    data = names["prepare"](data)
mcmc = MCMC(Kernel(names["model"]), num_warmup=warmup, num_samples=draws, num_chains=chains,
            chain_method="vectorized", progress_bar=False)
mcmc.run(jax.random.key(seed), **data)
samples = jax.tree.map(numpy.asarray, mcmc.get_samples(group_by_chain=True))
"""
_BY_NUTPIE = f"""
from pathlib import Path
from qdesampler.bench.harness.record import Settings
from qdesampler.infer import load_model
settings = Settings(chains, warmup, draws)
outcome, _ = sample_with_nutpie(load_model(Path(folder)), seed, settings, low_rank=True, tune={_NUTPIE_TUNE})
samples = dict(outcome.samples)
"""


class Cost(NamedTuple):
    """What one process used.

    Attributes:
        total: CPU seconds, imports included.
        imports: CPU seconds until everything was imported.
        programs: compiled programs.
        ess: least effective sample size of x and x^2 over all sites.
    """

    total: float
    imports: float
    programs: int
    ess: float

    @property
    def charged(self) -> float:
        """CPU seconds to 400 effective draws."""
        return self.total * max(1.0, _WANTED_ESS / self.ess)


def measure_process(sampler: str, folder: Path, seed: int, settings: Settings) -> Cost:
    """Sample the model in `folder` in a new process.

    Raises:
        RuntimeError: the process failed, with its error, or did not return all draws.
    """
    sample = _BY_NUTPIE if sampler == "nutpie" else _BY_MCMC
    numbers = [str(n) for n in (seed, settings.chains, settings.warmup, settings.draws)]
    program = PROGRAM.format(imports=IMPORTS[sampler], sample=sample)
    done = run_cold(["-c", program, str(folder), *numbers])
    if done.returncode != 0:
        raise RuntimeError(f"the {sampler} process failed:\n{done.stderr.strip()}")
    report = json.loads(done.stdout.splitlines()[-1])
    expected = settings.chains * settings.draws
    if report.pop("draws") != expected:
        raise RuntimeError(f"the {sampler} process did not return the {expected} draws asked for.")
    return Cost(**report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all samplers in alternation, model by model, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.driver.seconds", description=__doc__)
    parser.add_argument("models", type=Path, nargs="*", default=[Path("models/eight_schools")])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument(
        "--nutpie", action="store_true", help="nutpie's low-rank adaptation too, if installed"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: expected at least 1")
    settings = Settings(options.chains, options.warmup, options.draws)
    cases = [load_model(model) for model in options.models]  # says what is wrong with a folder
    for case in cases:
        if not (case.path / "data.json").is_file():
            parser.error(f"{case.path}: expected a folder with model.py and data.json")
    print("\n".join(f"- {name}: {value}" for name, value in header(settings).items()))
    print(f"- medians of {options.repeats} processes each, in alternation, without a compilation cache\n")
    print("| model | sampler | CPU s (range) | imports | programs | least ESS | CPU s to 400 | of NUTS |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    samplers = [name for name in IMPORTS if name not in _OPTIONAL or options.nutpie]
    ratios: dict[str, list[float]] = {sampler: [] for sampler in samplers}
    kept = []
    for case in cases:
        costs: dict[str, list[Cost]] = {sampler: [] for sampler in samplers}
        for repeat in range(options.repeats):
            for sampler, found in costs.items():
                found.append(measure_process(sampler, case.path, repeat, settings))
        reference = statistics.median(cost.charged for cost in costs["nuts"])
        for sampler, found in costs.items():
            totals = [cost.total for cost in found]
            charged = statistics.median(cost.charged for cost in found)
            ratios[sampler].append(charged / reference)
            imports, programs, ess = (
                statistics.median(getattr(cost, name) for cost in found)
                for name in ("imports", "programs", "ess")
            )
            print(
                f"| {case.name} | {sampler} | {statistics.median(totals):.1f} ({min(totals):.1f} to "
                f"{max(totals):.1f}) | {imports:.1f} | {programs:.0f} | {ess:.0f} | {charged:.1f} | "
                f"{charged / reference:.2f} |",
                flush=True,
            )
            kept.append({"model": case.name, "sampler": sampler, "costs": [cost._asdict() for cost in found]})
            if options.out:
                options.out.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    for sampler, found in ratios.items():
        mean = math.exp(statistics.fmean(map(math.log, found)))
        print(f"\n{sampler}: {mean:.2f} of NUTS in geometric mean, {max(found):.2f} at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
