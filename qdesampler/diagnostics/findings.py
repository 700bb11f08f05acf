"""What is wrong with a run, in words, and what to do about it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from qdesampler.diagnostics.finding import Finding
from qdesampler.diagnostics.ladder import ladder_findings
from qdesampler.diagnostics.summary import as_tree, posterior_dataset, scalars, summary
from qdesampler.infer.annealed import AnnealedQDE
from qdesampler.kernels.solve import MIDDLING, OUTCOMES, SOLVED, UNBOUNDED

MAX_R_HAT = 1.01
MIN_ESS = 400
MIN_ESS_PER_CHAIN = 100
MIN_DRAWS = 8


def diagnose(run: Any, *, table: Any = None) -> list[Finding]:
    """Check a run: enough draws, all finite, every chain moving, no divergences, R-hat and ESS.

    The limits are R-hat 1.01 and, for bulk and tail alike, an effective sample size of 400 in total and 100
    for each chain (Vehtari et al., Bayesian Analysis 16(2), 2021). Scalars that are equal in all draws, such
    as the diagonal of a correlation matrix, have no R-hat and are passed over; a latent site of which *no*
    entry ever changes is reported. Of a run of AnnealedQDE the ladder is judged too (`ladder_findings`); a
    tree does not hold it.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, or a tree with a posterior.
        table: the full table of `summary`, if it is at hand.

    Returns:
        The findings, the gravest first; an empty list says that nothing speaks against the draws.

    Raises:
        ValueError: there are no draws.
    """
    tree = as_tree(run)
    dataset = posterior_dataset(tree)
    chains, draws = dataset.sizes["chain"], dataset.sizes["draw"]
    if draws < MIN_DRAWS:
        return [
            Finding(
                "few_draws",
                f"{draws} draws in a chain say nothing about convergence: at least {MIN_DRAWS} are needed.",
                "Draw more: a few hundred for each chain at least.",
            )
        ]
    table = summary(tree) if table is None else table
    entries = list(scalars(dataset))
    moving = np.array([bool(np.any(values != values[0, 0])) for _, values in entries])
    finite = np.array([bool(np.isfinite(values).all()) for _, values in entries])
    checks = (
        _no_ground_state(tree),
        _non_finite(entries),
        _stuck_chains(entries, moving, chains),
        _constant_sites(dataset),
        _modes(tree),
        _divergences(tree),
        _r_hat(table[moving & finite], chains),
        _ess(table[moving & finite], chains),
    )
    found = [finding for finding in checks if finding is not None]
    if isinstance(getattr(run, "sampler", None), AnnealedQDE):
        found += ladder_findings(run)
    return found


def verdict(findings: Sequence[Finding]) -> str:
    """One line: may the draws be used?"""
    if not findings:
        return "Good: nothing speaks against these draws."
    count = "one thing speaks" if len(findings) == 1 else f"{len(findings)} things speak"
    return f"Do not rely on these draws yet: {count} against them."


def least_ess(chains: int) -> int:
    """The effective sample size below which `diagnose` complains."""
    return max(MIN_ESS, MIN_ESS_PER_CHAIN * chains)


def _no_ground_state(tree: xr.DataTree) -> Finding | None:
    if tree.attrs.get("solve_outcome") != OUTCOMES[UNBOUNDED]:
        return None
    return Finding(
        "no_ground_state",
        "The solve found no normalisable ground state: the log density rises, or stays level, without end.",
        "Look for a flat prior that the data do not bound, a scale that can shrink to zero, or a sign; "
        "give proper priors.",
    )


def _modes(tree: xr.DataTree) -> Finding | None:
    outliers = int(tree.attrs.get("solve_outliers", 0))
    far = tree.attrs.get("solve_outcome") in (OUTCOMES[SOLVED], OUTCOMES[MIDDLING])
    chains = tree["posterior"].sizes["chain"]
    if not outliers or not far:
        return None
    return Finding(
        "modes",
        f"{outliers} of {chains} descents ended far outside the trial from which global moves are made: the "
        "posterior may have other modes, which these draws leave out.",
        "Run again with other seeds and compare, or start at the suspected modes (init_strategy).",
    )


def _non_finite(entries: list[tuple[str, np.ndarray]]) -> Finding | None:
    bad = [(label, int(np.sum(~np.isfinite(values)))) for label, values in entries]
    bad = [(label, count) for label, count in bad if count]
    if not bad:
        return None
    return Finding(
        "non_finite",
        f"{_listed([f'{label} ({count} draws)' for label, count in bad])} "
        f"{'is' if len(bad) == 1 else 'are'} NaN or infinite: their means and errors do not exist.",
        "Look for log or sqrt of a non-positive number, division by zero or overflow in the model; "
        "try double precision.",
    )


def _stuck_chains(entries: list[tuple[str, np.ndarray]], moving: np.ndarray, chains: int) -> Finding | None:
    """Chains in which nothing changes that changes elsewhere."""
    lively = [values for (_, values), moves in zip(entries, moving, strict=True) if moves]
    stuck = [c for c in range(chains) if lively and all(np.all(v[c] == v[c, 0]) for v in lively)]
    if not stuck:
        return None
    return Finding(
        "stuck",
        f"{'Chain' if len(stuck) == 1 else 'Chains'} {_listed(list(map(str, stuck)))} never moved: "
        "every proposal was rejected.",
        "Start elsewhere (init_strategy, or another seed), warm up for longer, or rescale the model.",
    )


def _constant_sites(dataset: xr.Dataset) -> Finding | None:
    constant = [
        str(name)
        for name, values in dataset.data_vars.items()
        if values.attrs.get("site_kind") == "latent" and bool((values == values.isel(chain=0, draw=0)).all())
    ]
    if not constant:
        return None
    return Finding(
        "stuck",
        f"{_listed(constant)} {'has' if len(constant) == 1 else 'have'} one value in all draws of all "
        "chains: the sampler never moved there.",
        "Check that the log density depends on the site, and start elsewhere.",
    )


def _divergences(tree: xr.DataTree) -> Finding | None:
    if "sample_stats" not in tree.children or "diverging" not in tree["sample_stats"]:
        return None
    diverging = np.asarray(tree["sample_stats"]["diverging"])
    count = int(np.sum(diverging))
    if not count:
        return None
    return Finding(
        "divergences",
        f"{count} of {diverging.size} draws diverged: the integrator lost the energy there, so that a part "
        "of the posterior may be left out.",
        "Raise target_accept_prob (0.95, 0.99), or change the parametrisation (non-centred hierarchies).",
    )


def _r_hat(table: Any, chains: int) -> Finding | None:
    values = table["r_hat"]
    bad = table[~(values <= MAX_R_HAT)]  # NaN is bad
    if not len(bad):
        return None
    parts = "chains" if chains > 1 else "two halves of the only chain"
    which = _rows(bad, "r_hat", "{:.3f}", len(table), largest=True)
    return Finding(
        "r_hat",
        f"R-hat is above {MAX_R_HAT} for {which}: the {parts} do not agree on the posterior.",
        "Warm up and draw for longer; if it stays, look for several modes or a ridge in the pair plot.",
    )


def _ess(table: Any, chains: int) -> Finding | None:
    least = least_ess(chains)
    smallest = table[["ess_bulk", "ess_tail"]].min(axis=1, skipna=False).to_frame("ess")
    bad = smallest[~(smallest["ess"] >= least)]
    if not len(bad):
        return None
    which = _rows(bad, "ess", "{:.0f}", len(table), largest=False)
    return Finding(
        "ess",
        f"The effective sample size is below {least} for {which}: means, quantiles and these diagnostics "
        "themselves are uncertain.",
        "Draw more; if that is too slow, change the parametrisation.",
    )


def _rows(bad: Any, column: str, form: str, total: int, *, largest: bool) -> str:
    worst = bad.sort_values(column, ascending=not largest, na_position="first")
    shown = [f"{label} ({form.format(value)})" for label, value in worst[column].head(3).items()]
    return f"{len(bad)} of {total} scalars, worst {', '.join(shown)}" if len(bad) > 3 else _listed(shown)


def _listed(words: list[str], limit: int = 5) -> str:
    if len(words) > limit:
        words = [*words[: limit - 1], f"{len(words) - limit + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
