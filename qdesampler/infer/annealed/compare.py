r"""Bayes factors of models: `compare_evidence`.

p(M | data) is proportional to Z_M p(M),        log BF = log Z_M - log Z_best .
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpyro.infer import MCMC

from qdesampler.infer.annealed.evidence import LogEvidence, log_evidence
from qdesampler.infer.annealed.kernel import AnnealedQDE

__all__ = ["compare_evidence"]


def compare_evidence(
    runs: Mapping[str, Any],
    *,
    key: jax.Array | None = None,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    num_warmup: int = 500,
    num_samples: int = 1000,
    num_chains: int = 4,
) -> list[dict[str, float | str]]:
    """Bayes factors: one row a model, the best first.

    The runs have to be of the same data, and their potentials normalised alike (models are). Models are run
    here, by `AnnealedQDE`, with the same arguments:

        compare_evidence({"normal": normal, "student": student}, key=jax.random.key(0), model_args=(y,))

    Args:
        runs: name to a model, to a run of AnnealedQDE, or to `(log evidence, standard error)`.
        key: for the runs of models.
        model_args: of all models.
        model_kwargs: of all models.
        num_warmup: iterations before the first draw.
        num_samples: draws of each chain.
        num_chains: chains, vectorized.

    Returns:
        Rows with `model`, `log_evidence`, `standard_error`, `log_bayes_factor` against the best (zero or
        less), its `log_bayes_factor_error`, and the posterior `probability` under equal prior odds.

    Raises:
        TypeError: `runs` is no mapping.
        ValueError: nothing to compare, a model without a key, or an entry without a finite evidence and its
            error.
    """
    if not isinstance(runs, Mapping):
        raise TypeError(f"runs is a {type(runs).__name__}; expected {{name: run of AnnealedQDE}}.")
    if not runs:
        raise ValueError("There is nothing to compare: give {name: run of AnnealedQDE}.")
    models = [name for name, run in runs.items() if _is_model(run)]
    if models and key is None:
        raise ValueError(f"{models} are models, which are run here: give key=jax.random.key(0).")
    found = {}
    run: Any
    for number, (name, run) in enumerate(runs.items()):
        if _is_model(run):
            mcmc = MCMC(
                AnnealedQDE(run),
                num_warmup=num_warmup,
                num_samples=num_samples,
                num_chains=num_chains,
                chain_method="vectorized",
                progress_bar=False,
            )
            assert key is not None
            mcmc.run(jax.random.fold_in(key, number), *model_args, **(model_kwargs or {}))
            run = mcmc
        found[name] = log_evidence(run) if not _is_pair(run) else LogEvidence(run[0], run[1])
    return _rows(found)


def _is_model(run: Any) -> bool:
    return isinstance(run, Callable) and not hasattr(run, "last_state") and not hasattr(run, "adapt_state")


def _is_pair(run: Any) -> bool:
    return isinstance(run, tuple) and len(run) == 2 and not hasattr(run, "adapt_state")


def _rows(found: dict[str, LogEvidence]) -> list[dict[str, float | str]]:
    bad = [name for name, evidence in found.items() if not np.isfinite(evidence.value)]
    if bad:
        raise ValueError(f"The evidence of {bad} is not finite: it cannot be compared.")
    bad = [name for name, evidence in found.items() if not evidence.standard_error >= 0]
    if bad:
        raise ValueError(f"The standard error of {bad} is not a number of at least 0.")
    total = np.logaddexp.reduce([evidence.value for evidence in found.values()])
    best = max(found.values(), key=lambda evidence: evidence.value)
    rows: list[dict[str, float | str]] = []
    for name, evidence in sorted(found.items(), key=lambda item: -item[1].value):
        error = 0.0 if evidence is best else float(np.hypot(evidence.standard_error, best.standard_error))
        rows.append(
            {
                "model": name,
                "log_evidence": float(evidence.value),
                "standard_error": float(evidence.standard_error),
                "log_bayes_factor": float(evidence.value - best.value),
                "log_bayes_factor_error": error,
                "probability": float(np.exp(evidence.value - total)),
            }
        )
    return rows
