"""One run in a process of its own: sample an example and write the draws to a file.

    python -m qdesampler.bench.examples.worker ar2 qde 4 0 1000 1000 draws.npz

The sampler's packages are imported by name, so that a process imports no other sampler's. CPU seconds are
user and system time of all threads until the draws are NumPy arrays; what follows is the measurement's own.
"""

import importlib
import json
import resource
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from qdesampler.bench.examples.registry import EXAMPLES

__all__ = ["SAMPLERS", "UNCONSTRAINED", "main"]

# The kernel and the driver that runs it: (module, class) each.
SAMPLERS = {
    "qde": (("qdesampler", "QDE"), ("qdesampler", "MCMC")),
    "nuts": (("qdesampler.infer.counted_nuts", "CountedNUTS"), ("numpyro.infer", "MCMC")),
}
UNCONSTRAINED = "unconstrained/"  # before the names of latent sites, for their unconstrained values


def main(arguments: Sequence[str]) -> None:
    """Sample and write: see `qdesampler.bench.examples.process.run` for the arguments."""
    name, kernel, *numbers, out = arguments
    chains, seed, warmup, draws = map(int, numbers)
    make_kernel, make_driver = (getattr(importlib.import_module(m), c) for m, c in SAMPLERS[kernel])
    built = EXAMPLES[name]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings = {"init_strategy": built.init_strategy} if built.init_strategy else {}
        sampler = make_kernel(built.case.model, **settings)
        sampler.postprocess_fn = _with_unconstrained(sampler.postprocess_fn)
        mcmc = make_driver(
            sampler,
            num_warmup=warmup,
            num_samples=draws,
            num_chains=chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(jax.random.key(seed), **built.case.data)
        samples = {site: np.asarray(x) for site, x in mcmc.get_samples(group_by_chain=True).items()}
        fields = mcmc.get_extra_fields(group_by_chain=True)
        evals, diverging = np.asarray(fields["num_evals"], np.int64), np.asarray(fields["diverging"])
    used = resource.getrusage(resource.RUSAGE_SELF)
    said = {f"{warning.category.__name__}: {warning.message}" for warning in caught}
    state: Any = mcmc.last_state
    report = {
        "cpu_s": used.ru_utime + used.ru_stime,
        "warmup_evals": int(np.sum(np.asarray(state.warmup_evals), dtype=np.int64)),
        "divergences": int(diverging.sum()),
        "warnings": sorted(said),
        "findings": _findings(mcmc) if kernel == "qde" else [],
    }
    np.savez(out, allow_pickle=False, report=np.array(json.dumps(report)), num_evals=evals, **samples)


def _with_unconstrained(original: Callable) -> Callable:
    """Keep the unconstrained values too: constrained ones cannot always be mapped back in float32."""

    def postprocess_fn(model_args: tuple[Any, ...], model_kwargs: dict[str, Any]) -> Callable:
        constrain = original(model_args, model_kwargs)
        return lambda z: {**constrain(z), **{f"{UNCONSTRAINED}{site}": value for site, value in z.items()}}

    return postprocess_fn


def _findings(mcmc: Any) -> list[str]:
    """Codes of what `qdesampler.diagnose` finds in the run as its user has it; grave ones end in "!"."""
    diagnostics = importlib.import_module("qdesampler.diagnostics")
    tree = diagnostics.to_datatree(mcmc)
    posterior = tree["posterior"].to_dataset()
    added = [name for name in posterior.data_vars if str(name).startswith(UNCONSTRAINED)]
    tree["posterior"] = posterior.drop_vars(added)
    found = diagnostics.diagnose(diagnostics.Analysis(mcmc, tree=tree))
    return [finding.code + ("!" if finding.grave else "") for finding in found]


if __name__ == "__main__":
    main(sys.argv[1:])
