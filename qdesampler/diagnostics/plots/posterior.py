"""The standard plots of a run, drawn by `arviz_plots` with matplotlib and kept as PNG images.

The global state of matplotlib and ArviZ does not change: when a function of this module returns, style,
backend and the list of open figures are as before.
"""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import arviz_plots
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from arviz_base import rc_context
from matplotlib.figure import Figure

from qdesampler.diagnostics.checks.diagnose import MIN_DRAWS
from qdesampler.diagnostics.datatree.dims import SAMPLE_DIMS
from qdesampler.diagnostics.datatree.kernel_answers import kernel_answer
from qdesampler.diagnostics.files import write_atomically
from qdesampler.diagnostics.plots.gain import plot_zero_variance
from qdesampler.diagnostics.plots.integers import draw_bars
from qdesampler.diagnostics.plots.ladder import plot_ladder
from qdesampler.diagnostics.plots.physics import plot_trial
from qdesampler.diagnostics.statistics.labels import short_names
from qdesampler.diagnostics.statistics.summary import blocks, scalars, statistics_of
from qdesampler.infer.model.kernel_reports import TrialReport

__all__ = [
    "EXTRA_PLOT_NAMES",
    "PLOT_NAMES",
    "Plot",
    "draw_plots",
    "draw_png",
    "save_plots",
    "write_plots",
]

MAX_POINTS = 4000  # points in a scatter plot; more would overlap
MAX_TRACED = 8000  # draws of a trace and its density
MAX_POOLED = 100_000  # draws behind an interval
MAX_IN_A_ROW = 20_000  # consecutive draws of each chain in plots that thinning would change
MAX_RANKED = 2000  # draws in a rank plot, whose test takes time in proportion to their square
MAX_LINES = 8  # chains drawn as lines
_DRAWING_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError)  # of draws that cannot be drawn
MAX_BARS = 100  # integers within this range are drawn as bars, others as a density
_PAIR_FONT = 9  # points, so that names of 18 characters fit beside a panel of 1.5 inches


class Plot(NamedTuple):
    """One finished plot: file stem, heading, description (including what is left out), PNG bytes."""

    name: str
    title: str
    caption: str
    png: bytes


class _Kind(NamedTuple):
    """One kind of plot: how to draw it, least and most scalars, least chains, characters of a name."""

    name: str
    title: str
    caption: str
    draw: Callable[[xr.DataTree], Any]
    least: int = 1
    most: int = 1
    chains: int = 1
    room: int = 28


def draw_plots(run: Any) -> Iterator[Plot]:
    """Draw the standard plots one after the other.

    Each plot has room for a number of scalars; of more scalars it shows those with the smallest bulk
    effective sample size, and its caption says so. Scalars that never change or are not finite are left out.
    The energy plot needs the energy in `sample_stats`. Further plots follow if they have anything to show:
    the gain of zero-variance means (for a table that has them), the trial of a QDE run against its draws, and
    the ladder of an AnnealedQDE run.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, a tree with a posterior, or an `Analysis`.

    Yields:
        Plots, in the order of a report.

    Warns:
        RuntimeWarning: a plot could not be drawn and is left out.

    Raises:
        ValueError: there are no draws.
    """
    found = statistics_of(run)
    tree, dataset, table = found.tree, found.dataset, found.table
    varied = [
        bool(np.any(x != x[:1, :1]) and np.isfinite(x).all()) for block in blocks(dataset) for x in block
    ]
    fit = np.flatnonzero(varied)
    worst_first = fit[np.argsort(table["ess_bulk"].to_numpy()[fit], kind="stable")]
    most = max(kind.most for kind in _KINDS)
    entries = _entries(dataset, sorted(worst_first[:most].tolist()))
    chains = dataset.sizes["chain"]
    for kind in _KINDS:
        shown = sorted(worst_first[: kind.most].tolist())
        if (
            len(shown) < kind.least
            or chains < kind.chains
            or (kind.name == "energy" and not _has_energy(tree))
        ):
            continue
        names = short_names([entries[i][0] for i in shown], kind.room)
        cut = kind.name != "energy" and any(
            name != entries[i][0] for name, i in zip(names, shown, strict=True)
        )
        flat = _flat(tree, [(name, entries[i][1]) for name, i in zip(names, shown, strict=True)])
        png = _drawn(kind.name, lambda kind=kind, flat=flat: kind.draw(flat))
        if png is not None:
            limits = _limits(kind, len(shown), fit.size, len(varied), dataset.sizes) + _CUT * cut
            yield Plot(kind.name, kind.title, f"{kind.caption}{limits}", png)
    for extra in _extras(found.run, table):
        png = _drawn(extra.name, lambda extra=extra: extra.draw(tree))
        if png is not None:
            yield Plot(extra.name, extra.title, extra.caption, png)


def draw_png(draw: Callable[[], Any]) -> bytes:
    """The matplotlib figure or PlotCollection that `draw` makes, as PNG; no figure stays open."""
    with _isolated():
        return _png(draw())


def _drawn(name: str, draw: Callable[[], Any]) -> bytes | None:
    """The image, or None and a warning, so that a plot that fails does not prevent the report."""
    try:
        return draw_png(draw)
    except _DRAWING_ERRORS as error:
        warnings.warn(f"The plot {name!r} could not be drawn: {error!r}", RuntimeWarning, stacklevel=3)
        return None


def _entries(dataset: xr.Dataset, wanted: Sequence[int]) -> dict[int, tuple[str, np.ndarray]]:
    """The labels and draws of some scalars by their positions."""
    chosen = set(wanted)
    return {i: entry for i, entry in enumerate(scalars(dataset)) if i in chosen}


def _extras(run: Any, table: Any) -> Iterator[_Kind]:
    """The plots that need more than a tree, if they have anything to show."""
    if "zv_gain" in table and bool((table["zv_gain"] > 1).any()):
        yield _Kind("gain", *_GAIN, lambda tree: plot_zero_variance(table, backend="matplotlib"))
    trial: TrialReport | None = kernel_answer(run, "trial_report")
    shown = trial is not None and trial.global_probability > 0 and bool(np.any(trial.as_written))
    if trial is not None and shown and trial.as_written.size <= _MOST_TRIAL_DIM:
        yield _Kind("trial", *_TRIAL, lambda tree: plot_trial(run, backend="matplotlib"))
    if kernel_answer(run, "ladder_summary") is not None:
        yield _Kind("ladder", *_LADDER, lambda tree: plot_ladder(run))


def save_plots(run: Any, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the standard plots as `<name>.png`, each under a temporary name first.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, a tree with a posterior, or an `Analysis`.
        folder: the folder, made if it does not exist.

    Returns:
        The paths of the files.

    Raises:
        ValueError: there are no draws.
        OSError: the folder cannot be written.
    """
    return write_plots(draw_plots(run), folder)


def write_plots(finished: Iterator[Plot] | Sequence[Plot], folder: str | os.PathLike[str]) -> list[Path]:
    """Write finished plots; see `save_plots`."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for plot in finished:
        paths.append(target / f"{plot.name}.png")
        write_atomically(paths[-1], plot.png)
    return paths


@contextmanager
def _isolated() -> Iterator[None]:
    """Style and backend for one plot; afterwards they are reset and new figures are closed."""
    backend = matplotlib.get_backend()
    before = set(plt.get_fignums())
    with matplotlib.rc_context(), rc_context({"plot.backend": "matplotlib", "plot.max_subplots": 100}):
        try:
            plt.switch_backend("agg")
            plt.style.use("arviz-variat")
            yield
        finally:
            for number in set(plt.get_fignums()) - before:
                plt.close(number)
            matplotlib.use(backend, force=False)  # sets an rcParam too, so it must be inside rc_context


def _png(collection: Any) -> bytes:
    figure = collection if isinstance(collection, Figure) else collection.viz["figure"].item()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def _flat(tree: xr.DataTree, entries: Sequence[tuple[str, np.ndarray]]) -> xr.DataTree:
    """A tree whose variables are the given scalars; equal labels get a number."""
    variables: dict[str, Any] = {}
    for label, values in entries:
        label = label.replace("/", "\N{DIVISION SLASH}")  # DataTree keeps '/' for paths
        name, count = label, 1
        while name in variables:
            count += 1
            name = f"{label} #{count}"
        discrete = bool(np.all(values == np.round(values)) and np.ptp(values) <= MAX_BARS)
        variables[name] = (SAMPLE_DIMS, values.astype(np.int64) if discrete else values)
    posterior = xr.Dataset(
        variables,
        coords={dim: np.arange(n) for dim, n in zip(SAMPLE_DIMS, entries[0][1].shape, strict=True)},
    )
    groups = {"posterior": posterior}
    if "sample_stats" in tree.children:
        wanted = [name for name in ("diverging", "energy") if name in tree["sample_stats"]]
        groups["sample_stats"] = tree["sample_stats"].to_dataset()[wanted]
    return xr.DataTree.from_dict(groups)


def _has_energy(tree: xr.DataTree) -> bool:
    if "sample_stats" not in tree.children or "energy" not in tree["sample_stats"]:
        return False
    energy = np.asarray(tree["sample_stats"]["energy"])
    return bool(np.isfinite(energy).all() and np.any(energy != energy.flat[0]))


def _limits(kind: _Kind, shown: int, fit: int, entries: int, sizes: Mapping[Any, int]) -> str:
    """Sentences that say what a plot leaves out."""
    chains, draws = sizes["chain"], sizes["draw"]
    text = ""
    if kind.name in ("energy", "autocorrelation", "ess") and draws > MAX_IN_A_ROW:
        text += f" Of each chain's {draws:,} draws the first {MAX_IN_A_ROW:,} are used."
    if kind.name == "energy":
        return text
    if shown < fit:
        text += f" Shown are {shown} of {fit} scalars, those with the smallest effective sample size."
    if fit < entries:
        text += f" {entries - fit} scalars that never change or are not finite are left out."
    if chains > MAX_LINES and kind.name in ("trace", "autocorrelation"):
        text += f" Shown are the first {MAX_LINES} of {chains} chains."
    return text


def _thinned(tree: xr.DataTree, most: int) -> xr.DataTree:
    """Every k-th draw, so that all chains together have about `most` draws."""
    size = tree["posterior"].sizes
    step = max(1, round(size["chain"] * size["draw"] / most))
    return tree.isel(draw=slice(None, None, step))


def _first(tree: xr.DataTree) -> xr.DataTree:
    """The first draws of each chain, without gaps."""
    return tree.isel(draw=slice(MAX_IN_A_ROW))


def _grid(tree: xr.DataTree) -> dict[str, Any]:
    """Panels in rows of at most three, with room for their titles."""
    count = len(tree["posterior"].data_vars)
    columns = min(count, 3)
    size = (4.2 * columns, 2.6 * -(-count // columns))
    return {"col_wrap": columns, "figure_kwargs": {"figsize": size, "figsize_units": "inches"}}


def _trace(tree: xr.DataTree) -> Any:
    tree = _thinned(tree.isel(chain=slice(MAX_LINES)), MAX_TRACED)
    varies = tree["posterior"].to_dataset().std("draw") > 0
    kind = "kde" if all(varies[name].all() for name in varies) else "ecdf"  # a constant chain has no density
    collection: Any = arviz_plots.plot_trace_dist(tree, compact=False, kind=kind, backend="matplotlib")
    for name, values in tree["posterior"].data_vars.items():
        # The name stands below the distribution; turned by 90 degrees it would run into other rows.
        collection.get_viz("plot", name, column="trace").set_ylabel("")
        if values.dtype.kind == "i":
            draw_bars(collection.get_viz("plot", name, column="dist"), values)
    return collection


def _rank(tree: xr.DataTree) -> Any:
    # `thin` uses the effective sample size, because the test behind the black marks needs independent draws.
    few = _thinned(tree, MAX_RANKED)
    thin = few["posterior"].sizes["draw"] >= MIN_DRAWS
    return arviz_plots.plot_rank(few, thin=thin, backend="matplotlib", **_grid(tree))


def _forest(tree: xr.DataTree) -> Any:
    collection = arviz_plots.plot_forest(_thinned(tree, MAX_POOLED), combined=True, backend="matplotlib")
    collection.viz["figure"].item().axes[0].axis("off")  # the column of labels needs no axis
    return collection


def _energy(tree: xr.DataTree) -> Any:
    return arviz_plots.plot_energy(_first(tree), backend="matplotlib")


def _pair(tree: xr.DataTree) -> Any:
    marked = "sample_stats" in tree.children and "diverging" in tree["sample_stats"]
    tree = _thinned(tree, MAX_POINTS)
    small = {"size": _PAIR_FONT}
    visuals: dict[Any, Any] = {"divergence": marked, "xlabel": small, "ylabel": small}
    matrix = arviz_plots.plot_pair(tree, backend="matplotlib", visuals=visuals)
    for i, values in enumerate(tree["posterior"].data_vars.values()):
        if values.dtype.kind == "i":
            draw_bars(_diagonal(matrix, i), np.asarray(values).reshape(1, -1))
    return matrix


def _diagonal(matrix: Any, i: int) -> Any:
    """The panel of a matrix of plots with the distribution of one scalar."""
    return matrix.viz["plot"].isel(row_index=i, col_index=i).item()


def _autocorrelation(tree: xr.DataTree) -> Any:
    return arviz_plots.plot_autocorr(
        _first(tree.isel(chain=slice(MAX_LINES))), backend="matplotlib", **_grid(tree)
    )


def _ess(tree: xr.DataTree) -> Any:
    return arviz_plots.plot_ess_evolution(_first(tree), backend="matplotlib", **_grid(tree))


_KINDS = (
    _Kind("trace", "Distribution and trace", "Chains should lie on top of each other.", _trace, most=10),
    _Kind(
        "rank",
        "Ranks",
        "How each chain's ranks differ from uniform, draws thinned to be independent; black marks chains "
        "that stand out at level 0.01.",
        _rank,
        most=12,
        chains=2,
    ),
    _Kind(
        "forest",
        "Intervals",
        "Mean, central half and 89% interval of the pooled chains.",
        _forest,
        most=30,
        room=40,
    ),
    _Kind("energy", "Energy", "The energy's own distribution and its changes should be alike.", _energy),
    _Kind(
        "pair", "Pairs", "Joint distributions; divergent draws are marked.", _pair, least=2, most=5, room=18
    ),
    _Kind("autocorrelation", "Autocorrelation", "It should fall to zero quickly.", _autocorrelation, most=12),
    _Kind(
        "ess",
        "Effective sample size",
        "Bulk (blue) and tail (red) should grow in proportion to the draws; the broken line is 400.",
        _ess,
        most=12,
    ),
)
_CUT = " Long names are shortened in the middle."
_GAIN = (
    "Zero-variance gain",
    "Standard errors of the means, plain and with control variates; the gain is their squared ratio.",
)
_TRIAL = (
    "Trial against draws",
    "Marginal densities of the trial state, from which global moves are proposed, and of the draws, in "
    "unconstrained space.",
)
_LADDER = (
    "Ladder",
    "Swap rates should be equal, the flow straight, and the chains' evidences within the error.",
)
_MOST_TRIAL_DIM = 1000  # coordinates up to which a trial is drawn
PLOT_NAMES = tuple(kind.name for kind in _KINDS)
EXTRA_PLOT_NAMES = ("gain", "trial", "ladder")
