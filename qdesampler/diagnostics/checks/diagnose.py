"""All checks of a run together: what is wrong with it, and what to do about it."""

from typing import Any

import numpy as np
import xarray as xr

from qdesampler.diagnostics.checks.draws import MAX_R_HAT, draw_checks, draw_facts, least_ess
from qdesampler.diagnostics.checks.finding import Check, Diagnosis, Finding, Judged
from qdesampler.diagnostics.checks.kernel import funnel_check, kernel_checks
from qdesampler.diagnostics.checks.ladder import FEW_ROUND_TRIPS, ladder_findings
from qdesampler.diagnostics.checks.symmetry import symmetry_check
from qdesampler.diagnostics.checks.target import target_checks
from qdesampler.diagnostics.datatree.kernel_answers import kernel_answer
from qdesampler.diagnostics.statistics.summary import statistics_of

__all__ = ["MAX_R_HAT", "MIN_DRAWS", "diagnose", "least_ess"]

MIN_DRAWS = 8  # draws of a chain below which nothing is checked


def diagnose(run: Any, *, target: bool = True) -> Diagnosis:
    """Check a run: a table of all checks, a verdict, and for each failure its meaning and the remedy.

    Checks of the draws: finite, every chain moving, no latent site constant, rank-normalised R-hat (nested
    from 16 chains on), chains in different modes, bulk and tail effective sample sizes, errors of the means,
    the tail index. Checks of the kernel's reports: the solve, divergences, the energy (BFMI), acceptance of
    local and global moves, wasteful thinning, the ladder of an AnnealedQDE with its round trips; and a funnel
    if there are divergences or the energies are bad. Checks of the target, for a run and not for a tree: its
    gradient against finite differences, regions without a density near the draws, the virial identity
    `E[x_i d_j log p] = -delta_ij`, which takes one gradient for each draw unless the run collected `z_grad`,
    and the mirror images of the draws under swaps of components and flips of signs. The density determines
    the mass of these images (some thousand evaluations), so that a mixture whose chains all keep one order of
    its labels is found. Other modes that no chain and no descent has visited are not found.

    The limits are R-hat 1.01 and an effective sample size of 400 in total and, below 16 chains, 100 for each
    chain (Vehtari et al., Bayesian Analysis 16(2), 2021). Scalars that are equal in all draws, such as the
    diagonal of a correlation matrix, have no R-hat and are ignored.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, a tree with a posterior, or an `Analysis`.
        target: whether the target may be evaluated.

    Returns:
        The findings as a list, the gravest first, and every check in `checks`; `good` says whether the draws
        may be used, and `print` shows all of it.

    Raises:
        ValueError: there are no draws.
    """
    found = statistics_of(run)
    run, tree, dataset = found.run, found.tree, found.dataset
    draws = dataset.sizes["draw"]
    if draws < MIN_DRAWS:
        finding = Finding(
            "few_draws",
            f"{draws} draws in a chain say nothing about convergence: at least {MIN_DRAWS} are needed.",
            "Draw more: `num_samples=500` at least.",
        )
        return Diagnosis([finding], [Check("Draws of a chain", str(draws), f"at least {MIN_DRAWS}", False)])
    table = found.plain_table
    facts = draw_facts(dataset, table)
    judged = [*draw_checks(dataset, table, facts, tree.attrs), *kernel_checks(tree, table[facts.usable])]
    judged += _ladder(run, tree)
    if target and not isinstance(run, xr.DataTree):
        judged += target_checks(run, has_edges=bool(tree.attrs.get("density_edges", 0)))
        judged.append(symmetry_check(run, table[facts.usable]))
    judged.append(funnel_check(tree, dataset, table, [j.finding for j in judged if j.finding is not None]))
    return Diagnosis(
        [j.finding for j in judged if j.finding is not None], [j.check for j in judged if j.check is not None]
    )


def _ladder(run: Any, tree: xr.DataTree) -> list[Judged]:
    """The findings of the ladder for a run, or only its round trips for a tree."""
    if "round_trips" not in tree.attrs:
        return []
    trips, chains = int(tree.attrs["round_trips"]), tree["posterior"].sizes["chain"]
    findings = ladder_findings(run) if kernel_answer(run, "ladder_summary") is not None else []
    few = trips < FEW_ROUND_TRIPS * chains
    if few and not findings:
        findings = [
            Finding(
                "no_round_trips",
                f"Replicas made {trips} round trips in {chains} chains: masses of modes and the evidence "
                "depend on where particles started.",
                "Draw for longer (twice the `num_samples`), use `AnnealedQDE(model, num_particles=1024)`, or "
                "give a reference closer to the posterior.",
            )
        ]
    codes = {finding.code for finding in findings}
    limit = f"at least {FEW_ROUND_TRIPS:g} a chain"
    passed = "no_round_trips" not in codes
    rows: list[Judged] = [Judged(Check("Round trips of the ladder", str(trips), limit, passed))]
    value = float(tree.attrs.get("log_evidence", np.nan))
    if np.isfinite(value):
        error = float(tree.attrs["log_evidence_error"])
        text = f"{value:.3f} \N{PLUS-MINUS SIGN} {error:.2g}"
        doubts = codes - {"no_round_trips"}
        rows.append(Judged(Check("Log evidence, its ladder", text, "no alarm", not doubts)))
    return rows + [Judged(None, finding) for finding in findings]
