"""Checks of the kernel's reports: the solve, divergences, energies, acceptance, thinning, funnels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from qdesampler.diagnostics.checks.draws import least_ess
from qdesampler.diagnostics.checks.finding import DOUBLE, Check, Finding, Judged, listed
from qdesampler.diagnostics.statistics.array_statistics import mean_ranks
from qdesampler.diagnostics.statistics.summary import all_labels, blocks

__all__ = ["funnel_check", "kernel_checks"]

MANY_DIVERGENCES = 1e-3  # of the draws; fewer are a remark: the draws may be used
MIN_BFMI = 0.3  # below it momenta change the energy too slowly (Betancourt, arXiv:1604.00695)
MIN_ACCEPTANCE = 0.05  # acceptance below which a chain hardly moves
WASTEFUL = 0.5  # effective draws for each kept draw above which thinning has dropped useful draws
MIN_DIVERSITY = 0.5  # probability that two reads of a pool differ; below it most collective moves are idle
FUNNEL = 0.3  # rank correlation of one coordinate with the distance of another from its median
_MOST_COORDINATES = 200  # coordinates that are tested for a funnel, those with the smallest ESS
_MOST_DRAWS = 4000  # draws that are used for it


def kernel_checks(tree: xr.DataTree, table: Any) -> list[Judged]:
    """Rows and findings from `sample_stats` and the attributes of a tree."""
    return [
        _no_ground_state(tree),
        _descents(tree),
        _step_size(tree),
        _edges(tree),
        _divergences(tree),
        _bfmi(tree),
        _acceptance(tree),
        _global_moves(tree),
        _thinning(tree, table),
        _pool(tree),
    ]


def _statistic(tree: xr.DataTree, name: str) -> np.ndarray | None:
    if "sample_stats" not in tree.children or name not in tree["sample_stats"]:
        return None
    return np.asarray(tree["sample_stats"][name])


def _no_ground_state(tree: xr.DataTree) -> Judged:
    outcome = tree.attrs.get("solve_outcome")
    if outcome is None:
        return Judged()
    if tree.attrs.get("solve_bounded", 1):
        return Judged(Check("Imaginary-time solve", str(outcome)))
    return Judged(
        Check("Imaginary-time solve", str(outcome), "a ground state", False),
        Finding(
            "no_ground_state",
            "The solve found no normalisable ground state: the log density rises, or stays constant, without "
            "end.",
            "Look for a wrong sign, a flat prior that the data do not bound, or a scale that can shrink to "
            "zero. Give proper priors: `dist.Normal(0, 10)` in place of a flat one, and `dist.Gamma(2, 1)` "
            "for a scale, which excludes zero.",
        ),
    )


def _descents(tree: xr.DataTree) -> Judged:
    if not tree.attrs.get("solve_has_trial", 0):
        return Judged()
    outliers = int(tree.attrs.get("solve_outliers", 0))
    check = Check("Descents outside the trial", str(outliers), "none", not outliers)
    if not outliers:
        return Judged(check)
    return Judged(
        check,
        Finding(
            "modes",
            f"{outliers} descents ended far outside the trial from which global moves are made: "
            "the posterior may have other modes, which these draws do not contain.",
            "Use `AnnealedQDE(model)`, or start at the suspected modes (`init_params`) and compare.",
        ),
    )


def _step_size(tree: xr.DataTree) -> Judged:
    if not tree.attrs.get("step_size_at_floor", 0):
        return Judged()
    return Judged(
        Check("Step size", "at its floor", "above it", False),
        Finding(
            "step_size",
            "No step size reached the acceptance that the warm-up aimed at, or only a tiny one: local moves "
            "hardly move.",
            "The density may end at an edge or jump, or its gradient may be wrong: check the model for hard "
            f"limits that its supports do not know, and for rounding: {DOUBLE}.",
        ),
    )


def _edges(tree: xr.DataTree) -> Judged:
    if not tree.attrs.get("density_edges", 0):
        return Judged()
    return Judged(
        Check("Edges of the density", "met", "none", False),
        Finding(
            "edges",
            "The density ends at an edge, or jumps, where it is not small: many trajectories met one. The "
            "draws are exact, but trajectories that meet an edge are rejected and count as divergences, and "
            "the virial identity and zero-variance means do not hold.",
            "Use plain means. If the effective sample size is too small, put the limits into the supports of "
            "the sites, such as `dist.TruncatedNormal(0, 1, low=lower)`, where `lower` may be another site, "
            "or sum out what makes the density jump.",
            grave=False,
        ),
    )


def _divergences(tree: xr.DataTree) -> Judged:
    diverging = _statistic(tree, "diverging")
    if diverging is None:
        return Judged()
    count = int(np.sum(diverging))
    few = count <= MANY_DIVERGENCES * diverging.size
    check = Check(
        "Divergences", f"{count} of {diverging.size}", f"at most {MANY_DIVERGENCES:.1%} of the draws", few
    )
    if not count:
        return Judged(check)
    if few:
        return Judged(
            check,
            Finding(
                "divergences",
                f"{count} of {diverging.size} draws diverged. So few do no harm, unless they lie together.",
                f"If they do in the plot of pairs, use `{_call(tree)}(model, target_accept_prob=0.95)`.",
                grave=False,
            ),
        )
    return Judged(
        check,
        Finding(
            "divergences",
            f"{count} of {diverging.size} draws diverged: the integrator did not conserve the energy there, "
            "or a global move of QDE met an edge of the density, or left a place that its trial hardly "
            "covers. A part of the posterior may be missing.",
            f"Sample with `{_call(tree)}(model, target_accept_prob=0.95)`; if they stay, change the "
            "parametrisation (non-centred hierarchies), or put hard limits into the supports of sites.",
            grave=not tree.attrs.get("density_edges", 0),
        ),
    )


def _call(tree: xr.DataTree) -> str:
    """The name of the kernel of a run, as in a call of it."""
    return str(tree.attrs.get("kernel") or "QDE")


def _bfmi(tree: xr.DataTree) -> Judged:
    energy = _statistic(tree, "energy")
    if energy is None or energy.ndim != 2 or energy.shape[1] < 8 or not np.isfinite(energy).all():
        return Judged()
    spread = energy.astype(float).var(1, ddof=1)
    if np.any(spread == 0):
        return Judged()
    values = np.square(np.diff(energy.astype(float), axis=1)).mean(1) / spread
    worst = float(values.min())
    check = Check("Energy, BFMI", f"smallest {worst:.2f}", f"at least {MIN_BFMI}", worst >= MIN_BFMI)
    if check.passed:
        return Judged(check)
    chains = listed([str(chain) for chain in np.flatnonzero(values < MIN_BFMI)])
    return Judged(
        check,
        Finding(
            "bfmi",
            f"The energy changes slowly from draw to draw (BFMI {worst:.2f}, chains {chains}): the tails, or "
            "the neck of a funnel, are explored at random-walk speed.",
            "Change the parametrisation (hierarchies: `numpyro.infer.reparam.LocScaleReparam(0)`), "
            "give scales lighter tails, draw more.",
        ),
    )


def _acceptance(tree: xr.DataTree) -> Judged:
    accepted = _statistic(tree, "acceptance_rate")
    if accepted is None or accepted.ndim != 2 or not np.isfinite(accepted).all():
        return Judged()
    by_chain = accepted.astype(float).mean(1)
    worst = float(by_chain.min())
    check = Check(
        "Acceptance",
        f"mean {by_chain.mean():.2f}, smallest chain {worst:.2f}",
        f"at least {MIN_ACCEPTANCE}",
        worst >= MIN_ACCEPTANCE,
    )
    if check.passed:
        return Judged(check)
    return Judged(
        check,
        Finding(
            "acceptance",
            f"Chain {int(by_chain.argmin())} accepted {worst:.1%} of its proposals: it hardly moved.",
            "Warm up for longer, `num_warmup=2000`, so that the step size can adapt, or start elsewhere.",
        ),
    )


def _global_moves(tree: xr.DataTree) -> Judged:
    """A fact without a limit, because the kernel chooses the fraction of global moves by their acceptance."""
    if "solve_acceptance" not in tree.attrs:
        return Judged()
    acceptance, share = float(tree.attrs["solve_acceptance"]), float(tree.attrs.get("global_share", 0))
    return Judged(Check("Global moves", f"acceptance {acceptance:.2f}, {share:.0%} of the draws"))


def _thinning(tree: xr.DataTree, table: Any) -> Judged:
    thinning = int(tree.attrs.get("thinning", 1))
    if thinning <= 1 or not len(table):
        return Judged()
    size = tree["posterior"].sizes
    kept = size["chain"] * size["draw"]
    smallest = table["ess_bulk"].min()
    share = float(smallest / kept)
    check = Check(
        "Thinning",
        f"every {thinning}th draw kept, {share:.0%} of them effective",
        f"at most {WASTEFUL:.0%}, else too many were dropped",
        not share > WASTEFUL,
    )
    if check.passed:
        return Judged(check)
    short = smallest < least_ess(size["chain"])
    return Judged(
        check,
        Finding(
            "thinning",
            f"Thinning kept one draw in {thinning}, and the kept draws are nearly independent "
            f"({share:.0%} effective): it dropped draws that would lower every error.",
            "Keep all draws, `thinning=1`, unless memory forbids it; otherwise thin by less than the "
            "autocorrelation time.",
            grave=bool(short),
        ),
    )


def _pool(tree: xr.DataTree) -> Judged:
    """Whether differences of an annealer's reads move a chain at all."""
    if "pool_diversity" not in tree.attrs:
        return Judged()
    diversity, different = float(tree.attrs["pool_diversity"]), int(tree.attrs["pool_different"])
    reads, backend = int(tree.attrs["pool_reads"]), str(tree.attrs["backend"])
    check = Check(
        "Pool of reads",
        f"{different} of {reads} different, two differ with probability {diversity:.2f}",
        f"at least {MIN_DIVERSITY}",
        diversity >= MIN_DIVERSITY,
    )
    if check.passed:
        return Judged(check)
    return Judged(
        check,
        Finding(
            "pool",
            f"The pool ({backend}) has {different} different reads among {reads}, and two of them are equal "
            f"with probability {1 - diversity:.0%}: such differences move nothing, and the chain is left to "
            "its local moves. The draws are exact all the same.",
            "Anneal less deeply or at a higher temperature (`beta` below 1), take more reads, or use "
            '`AnnealerGibbs(model, move="scan")`, which needs no diverse reads.',
            grave=False,
        ),
    )


def funnel_check(tree: xr.DataTree, dataset: xr.Dataset, table: Any, others: Sequence[Finding]) -> Judged:
    """Whether the spread of one coordinate depends on another; checked after divergences or bad energies.

    Positive latent sites are replaced by their logarithms. Each coordinate is compared with the distance of
    every other coordinate from its median, by Spearman's rank correlation.
    """
    codes = {finding.code for finding in others}
    if not codes & {"divergences", "bfmi"} or "edges" in codes:
        return Judged()
    kinds = {str(name): values.attrs.get("site_kind", "latent") for name, values in dataset.data_vars.items()}
    latent = dataset[[name for name, kind in kinds.items() if kind == "latent"]]
    if not latent.data_vars:
        return Judged()
    sizes = [int(np.prod(values.shape[2:])) for values in dataset.data_vars.values()]
    among = np.repeat([kind == "latent" for kind in kinds.values()], sizes)
    order = np.argsort(table["ess_bulk"].to_numpy()[among], kind="stable")
    chosen = set(order[:_MOST_COORDINATES].tolist())
    labels = all_labels(latent)
    columns, names, start = [], [], 0
    for x in blocks(latent):
        flat = x.reshape(len(x), -1)
        flat = flat[:, :: max(1, flat.shape[1] // _MOST_DRAWS)]
        for i, values in enumerate(flat, start):
            if i in chosen and np.isfinite(values).all() and np.ptp(values) > 0:
                columns.append(np.log(values) if values.min() > 0 else values)
                names.append(labels[i])
        start += len(x)
    if len(columns) < 2:
        return Judged()
    z = np.stack(columns)
    ranks = mean_ranks(z)
    spreads = mean_ranks(np.abs(z - np.median(z, axis=1, keepdims=True)))
    centred, far = (r - r.mean(1, keepdims=True) for r in (ranks, spreads))
    size = np.sqrt(np.outer((centred**2).sum(1), (far**2).sum(1)))
    found = centred @ far.T / np.maximum(size, 1e-300)
    np.fill_diagonal(found, 0)
    i, j = np.unravel_index(np.argmax(np.abs(found)), found.shape)
    check = Check(
        "Funnel: spread of one against another",
        f"rank correlation {found[i, j]:+.2f} ({names[j]} against {names[i]})",
        f"within {FUNNEL}",
        bool(abs(found[i, j]) <= FUNNEL),
    )
    if check.passed:
        return Judged(check)
    count, site = int(np.sum(np.abs(found[i]) > FUNNEL)), names[j].partition("[")[0]
    return Judged(
        check,
        Finding(
            "funnel",
            f"A funnel: the spread of {names[j]} {f'and {count - 1} others ' if count > 1 else ''}"
            f"{'grows' if found[i, j] > 0 else 'shrinks'} with {names[i]} (rank correlation "
            f"{found[i, j]:+.2f}), so that no step size fits everywhere, and the neck is not sampled.",
            f"Write {site} non-centred, for instance by `model = numpyro.handlers.reparam(model, "
            f"config={{{site!r}: numpyro.infer.reparam.LocScaleReparam(0)}})`, or give {names[i]} a prior "
            "that excludes zero.",
        ),
    )
