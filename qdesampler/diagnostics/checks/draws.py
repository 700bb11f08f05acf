"""Checks of the draws themselves: are they finite, moving, mixed, enough, and do they have moments?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from qdesampler.diagnostics.checks.finding import DOUBLE, Check, Finding, Judged, listed
from qdesampler.diagnostics.statistics.array_statistics import MIN_DRAWS as LEAST_DRAWS
from qdesampler.diagnostics.statistics.array_statistics import nested_r_hat, pareto_k, r_hat
from qdesampler.diagnostics.statistics.summary import all_labels, blocks

__all__ = ["MAX_R_HAT", "MIN_ESS", "NESTED_CHAINS", "DrawFacts", "draw_checks", "draw_facts", "least_ess"]

MAX_R_HAT = 1.01  # Vehtari et al., Bayesian Analysis 16(2), 2021
MIN_ESS = 400  # effective draws of all chains together (the same source)
MIN_ESS_PER_CHAIN = 100  # effective draws for each chain (the same source)
NESTED_CHAINS = 16  # chains from which on R-hat is that of superchains
MODES_APART = 1.1  # R-hat of all chains above which they may be in different modes
SINGLE_CHAIN = 1.05  # R-hat of every single chain below which it is stationary
MAX_PARETO_K = 0.7  # tail index above which means converge too slowly
_MARGIN = 1.3  # more draws than the estimate asks for, because an effective sample size is itself uncertain
_MOST_TIMES = 20.0  # times as many draws, above which something else is wrong
_TAIL_DRAWS = 100  # effective draws in both tails that the tail index needs


class DrawFacts(NamedTuple):
    """Results of one pass over the draws; arrays have one entry for each scalar.

    Attributes:
        labels: labels of the scalars.
        moving: whether any draw differs from the first.
        infinite: number of draws that are NaN or infinite.
        still: chains in which no scalar changes that changes in other chains.
        nested: nested R-hat, or None with too few chains for it.
        single_chain: largest R-hat of a single chain if all chains together disagree strongly, else NaN.
        tail: Pareto k of the heavier tail; NaN if it cannot be estimated.
    """

    labels: list[str]
    moving: np.ndarray
    infinite: np.ndarray
    still: list[int]
    nested: np.ndarray | None
    single_chain: np.ndarray
    tail: np.ndarray

    @property
    def usable(self) -> np.ndarray:
        """Whether each scalar has R-hat and effective sample sizes."""
        return self.moving & (self.infinite == 0)


def least_ess(chains: int) -> int:
    """The effective sample size below which `diagnose` complains."""
    return MIN_ESS if chains >= NESTED_CHAINS else max(MIN_ESS, MIN_ESS_PER_CHAIN * chains)


def draw_facts(dataset: xr.Dataset, table: Any) -> DrawFacts:
    """One pass over the draws.

    Args:
        dataset: the result of `posterior_dataset`.
        table: the full table of `summary`.
    """
    chains = dataset.sizes["chain"]
    apart = table["r_hat"].to_numpy() > MODES_APART
    enough = table["ess_tail"].to_numpy() >= _TAIL_DRAWS
    parts, start = [], 0
    for x in blocks(dataset):
        where = slice(start, start + len(x))
        start += len(x)
        infinite = np.sum(~np.isfinite(x), axis=(1, 2))
        moving = np.any(x != x[:, :1, :1], axis=(1, 2))
        still = np.all(x == x[:, :, :1], axis=2)
        good = moving & (infinite == 0)
        nested, single_chain, tail = (np.full(len(x), np.nan) for _ in range(3))
        if chains >= NESTED_CHAINS and good.any():
            nested[good] = nested_r_hat(x[good])
        torn = good & apart[where] & (x.shape[2] >= 2 * LEAST_DRAWS)
        if torn.any():
            each = [r_hat(x[torn][:, [chain]]) for chain in range(chains)]
            single_chain[torn] = np.max(np.where(np.isnan(each), np.inf, each), axis=0)
        long = good & enough[where] & (chains * x.shape[2] >= _TAIL_DRAWS)
        if long.any():
            tail[long] = pareto_k(x[long])
        parts.append((moving, infinite, still, nested, single_chain, tail))
    moving, infinite, still, nested, single_chain, tail = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    stuck = np.flatnonzero(still[moving].all(axis=0))  # all chains if nothing moves at all
    return DrawFacts(
        all_labels(dataset),
        moving,
        infinite,
        [int(chain) for chain in stuck],
        nested if chains >= NESTED_CHAINS else None,
        single_chain,
        tail,
    )


def draw_checks(dataset: xr.Dataset, table: Any, facts: DrawFacts, attrs: Mapping[Any, Any]) -> list[Judged]:
    """Rows and findings, the gravest first.

    Args:
        dataset: the result of `posterior_dataset`.
        table: the full table of `summary`.
        facts: the result of `draw_facts`.
        attrs: the attributes of the tree, for the advice: `thinning` and `seed`, where they are known.
    """
    chains = dataset.sizes["chain"]
    iterations = dataset.sizes["draw"] * int(attrs.get("thinning", 1))  # `num_samples` of the run
    usable = table[facts.usable]
    return [
        _finite(facts, chains * dataset.sizes["draw"]),
        _stuck(facts, attrs.get("seed")),
        _constant(dataset),
        _modes(usable, facts, chains),
        _r_hat(usable, facts, chains, iterations),
        *_ess(usable, chains, iterations),
        _errors(usable),
        _tails(facts),
    ]


def _finite(facts: DrawFacts, size: int) -> Judged:
    bad = np.flatnonzero(facts.infinite)
    share = facts.infinite.sum() / (size * len(facts.labels))
    check = Check(
        "Draws", "all finite" if not bad.size else f"{share:.2%} not finite", "finite", not bad.size
    )
    if not bad.size:
        return Judged(check)
    shown = [f"{facts.labels[i]} ({facts.infinite[i]} draws)" for i in bad]
    return Judged(
        check,
        Finding(
            "non_finite",
            f"{listed(shown)} {'is' if bad.size == 1 else 'are'} NaN or infinite: their means and errors do "
            "not exist.",
            "Look for log or sqrt of a non-positive number, division by zero or overflow in the model; "
            f"try {DOUBLE}.",
        ),
    )


def _stuck(facts: DrawFacts, seed: int | None) -> Judged:
    names = listed([str(chain) for chain in facts.still]) if facts.still else "none"
    check = Check("Chains that never moved", names, "none", not facts.still)
    if not facts.still:
        return Judged(check)
    key = "with another key" if seed is None else f"`mcmc.run(jax.random.key({seed + 1}), ...)`"
    return Judged(
        check,
        Finding(
            "stuck",
            f"{'Chain' if len(facts.still) == 1 else 'Chains'} {names} never moved: "
            "every proposal was rejected.",
            f"Start elsewhere ({key}, or an `init_strategy`), warm up for longer (`num_warmup=2000`), or "
            "rescale the model.",
        ),
    )


def _constant(dataset: xr.Dataset) -> Judged:
    """Latent sites that never change in any entry."""
    constant = [
        str(name)
        for name, values in dataset.data_vars.items()
        if values.attrs.get("site_kind") == "latent" and bool((values == values[:1, :1].data).all())
    ]
    names = listed(constant) if constant else "none"
    check = Check("Parameters that never changed", names, "none", not constant)
    if not constant:
        return Judged(check)
    return Judged(
        check,
        Finding(
            "constant",
            f"{names} {'has' if len(constant) == 1 else 'have'} one value in all draws of all "
            "chains: the sampler never moved there.",
            "Check that the log density depends on the site. If it does, start elsewhere: give the kernel "
            "`init_strategy=numpyro.infer.init_to_sample()`.",
        ),
    )


def _modes(usable: Any, facts: DrawFacts, chains: int) -> Judged:
    single_chain = facts.single_chain[facts.usable]
    torn = (usable["r_hat"].to_numpy() > MODES_APART) & (single_chain < SINGLE_CHAIN)
    check = Check(
        "Chains in different places",
        _scalars(int(torn.sum())) if torn.any() else "none",
        f"R-hat at most {MODES_APART} if each single chain has {SINGLE_CHAIN}",
        not torn.any(),
    )
    if not torn.any():
        return Judged(check if chains > 1 else None)
    which = rows(usable[torn], "r_hat", "{:.2f}", len(usable), largest=True)
    return Judged(
        check,
        Finding(
            "modes",
            f"Each chain by itself is stationary, but the chains disagree (R-hat {which}): they are in "
            "different modes, and the fraction of the draws in each mode is arbitrary.",
            "Use `AnnealedQDE(model)`, which joins modes and weights them, or look for parameters that can "
            "be exchanged (labels of a mixture, signs of factors) and order them.",
        ),
    )


def _scalars(count: int) -> str:
    return "1 scalar" if count == 1 else f"{count} scalars"


def _more(iterations: int, times: float) -> str:
    """How many iterations would be enough, as an argument of `MCMC`; in proportion to what is missing."""
    if not np.isfinite(times) or times > _MOST_TIMES:
        return "Warm up for longer, and draw far more."
    digits = 10.0 ** max(0, math.floor(math.log10(iterations * times)) - 1)
    return f"Draw more: `num_samples={math.ceil(_MARGIN * iterations * times / digits) * digits:.0f}`."


def _r_hat(usable: Any, facts: DrawFacts, chains: int, iterations: int) -> Judged:
    name, column = "R-hat, rank-normalised", "r_hat"
    if facts.nested is not None:
        name, column = "Nested R-hat, rank-normalised", "nested"
        usable = usable.assign(nested=facts.nested[facts.usable])
    if not len(usable):
        return Judged(Check(name, "not judged: nothing moves and is finite"))
    values = usable[column]
    bad = usable[~(values <= MAX_R_HAT)]  # NaN counts as bad
    check = Check(name, f"largest {values.max(skipna=False):.3f}", f"at most {MAX_R_HAT}", not len(bad))
    if not len(bad):
        return Judged(check)
    parts = "chains" if chains > 1 else "two halves of the only chain"
    which = rows(bad, column, "{:.3f}", len(usable), largest=True)
    return Judged(
        check,
        Finding(
            "r_hat",
            f"{name.split(',')[0]} is above {MAX_R_HAT} for {which}: the {parts} do not agree on the "
            "posterior.",
            f"{_more(iterations, (values.max() - 1) / (MAX_R_HAT - 1))} If it stays, look for several modes "
            f"or a ridge in the plot of pairs of {bad[column].idxmax()}.",
        ),
    )


def _ess(usable: Any, chains: int, iterations: int) -> list[Judged]:
    least = least_ess(chains)
    checks = []
    for column, name in (("ess_bulk", "bulk"), ("ess_tail", "tail")):
        label = f"Effective sample size, {name}"
        if not len(usable):
            checks.append(Judged(Check(label, "not judged: nothing moves and is finite")))
            continue
        smallest = usable[column].min(skipna=False)
        checks.append(
            Judged(Check(label, f"smallest {smallest:.0f}", f"at least {least}", bool(smallest >= least)))
        )
    smaller = usable[["ess_bulk", "ess_tail"]].min(axis=1, skipna=False).to_frame("ess")
    bad = smaller[~(smaller["ess"] >= least)]
    if not len(bad):
        return checks
    which = rows(bad, "ess", "{:.0f}", len(usable), largest=False)
    finding = Finding(
        "ess",
        f"The effective sample size is below {least} for {which}: means, quantiles and these diagnostics "
        "themselves are uncertain.",
        f"{_more(iterations, least / max(float(smaller['ess'].min()), 1.0))} If that is too slow, change the "
        f"parametrisation of {bad['ess'].idxmin()}.",
    )
    return [*checks, Judged(None, finding)]


def _errors(usable: Any) -> Judged:
    """A fact without a limit; the effective sample size has one."""
    if not len(usable):
        return Judged()
    share = usable["mcse_mean"] / usable["sd"]
    worst = f" ({share.idxmax()})" if len(share) > 1 and share.notna().any() else ""
    return Judged(Check("Monte Carlo error of means", f"at most {share.max():.1%} of an sd{worst}"))


def _tails(facts: DrawFacts) -> Judged:
    name, limit = "Tails, Pareto k", f"at most {MAX_PARETO_K}"
    if np.all(np.isnan(facts.tail)):
        return Judged(Check(name, "not judged: too few draws in the tails", limit))
    worst = int(np.nanargmax(facts.tail))
    heavy = np.flatnonzero(facts.tail > MAX_PARETO_K)
    check = Check(name, f"largest {facts.tail[worst]:.2f} ({facts.labels[worst]})", limit, not heavy.size)
    if not heavy.size:
        return Judged(check)
    order = heavy[np.argsort(-facts.tail[heavy])]
    shown = listed([f"{facts.labels[i]} ({facts.tail[i]:.2f})" for i in order])
    site = facts.labels[order[0]].partition("[")[0]
    return Judged(
        check,
        Finding(
            "heavy_tail",
            f"The tails of {shown} are heavy (Pareto k above {MAX_PARETO_K}): the mean or its error does not "
            "exist, or converges too slowly to be useful.",
            f"Report quantiles in place of mean and sd, `np.quantile(mcmc.get_samples()[{site!r}], "
            "[0.05, 0.5, 0.95], axis=0)`, or give lighter-tailed priors.",
        ),
    )


def rows(bad: Any, column: str, form: str, total: int, *, largest: bool) -> str:
    """The worst rows of a table in words."""
    worst = bad.sort_values(column, ascending=not largest, na_position="first")
    shown: Sequence[str] = [f"{label} ({form.format(v)})" for label, v in worst[column].head(3).items()]
    return f"{len(bad)} of {total} scalars, worst {', '.join(shown)}" if len(bad) > 3 else listed(shown)
