"""A plot of a ladder: swap rates, flow of replicas, specific heat, evidence of every chain."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qdesampler.diagnostics.statistics.ladder import evidence_report, ladder_summary

__all__ = ["plot_ladder"]


def plot_ladder(run: Any) -> Figure:
    """Four panels: swap rates, flow, specific heat, and the evidence with its bounds, one line per chain.

    In a good ladder all pairs have about the same swap rate, and the flow falls along a straight line.

    Args:
        run: a `numpyro.infer.MCMC` with AnnealedQDE after `run`, or its last state.

    Returns:
        A matplotlib figure of its own, not registered with pyplot: `figure.savefig(path)`.

    Raises:
        ValueError: the kernel has no ladder, or too few iterations were kept.
    """
    summary, report = ladder_summary(run), evidence_report(run)
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    rates, flow, heat, evidence = figure.subplots(2, 2).ravel()
    rungs = np.arange(summary.betas.shape[1])
    for chain in range(summary.betas.shape[0]):
        rates.plot(rungs[1:], summary.swap_rates[chain], marker=".", label=f"chain {chain}")
        flow.plot(rungs, summary.flow[chain], marker=".")
        positive = np.maximum(summary.specific_heat[chain], 1e-12)
        heat.loglog(np.maximum(summary.betas[chain, 1:], 1e-12), positive, marker=".")
    for axis in (rates.xaxis, flow.xaxis, evidence.yaxis):  # rungs and chains are counted
        axis.set_major_locator(MaxNLocator(integer=True))
    flow.plot(rungs, 1 - rungs / rungs[-1], color="grey", linestyle=":", label="ideal")
    flow.legend()
    rates.set(xlabel="rung, with the one before", ylabel="swap rate", ylim=(0, 1))
    rates.set_title(f"barrier {summary.barrier.mean():.2f}, {int(summary.round_trips.sum())} round trips")
    rates.legend()
    flow.set(xlabel="rung", ylabel="fraction from the reference", ylim=(-0.02, 1.02))
    heat.set(xlabel="beta", ylabel="specific heat")
    evidence.plot(report.by_chain, np.arange(report.by_chain.size), "o")
    for value, style, label in (
        (report.value, "-", "bridge"),
        (report.lower, ":", "stepping stones, up"),
        (report.upper, "--", "stepping stones, down"),
    ):
        evidence.axvline(value, linestyle=style, color="black", label=label)
    error = report.standard_error
    if np.isfinite(error):
        evidence.axvspan(report.value - 2 * error, report.value + 2 * error, alpha=0.2)
    evidence.set(xlabel="log evidence of the potential given", ylabel="chain")
    evidence.ticklabel_format(axis="x", useOffset=False)
    evidence.tick_params(axis="x", labelrotation=20)
    evidence.legend(fontsize="small")
    return figure
