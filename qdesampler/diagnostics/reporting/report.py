"""One self-contained HTML page about a run: its settings, the verdict, the numbers, the plots."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from qdesampler.diagnostics.files import write_atomically
from qdesampler.diagnostics.reporting.analysis import analysis_of
from qdesampler.diagnostics.reporting.page import (
    checks_table,
    facts_list,
    figure,
    page,
    paragraph,
    preformatted,
    section,
    summary_table,
    verdict_box,
)

__all__ = ["evidence", "facts", "report"]

_CITE = """\
@software{qdesampler,
  title   = {qdesampler: posterior sampling for NumPyro by imaginary time},
  version = {%s},
  license = {Apache-2.0},
}
@article{wang2024quantum,
  title   = {Quantum dynamics of machine learning},
  author  = {{Wang} and {Maimaitiniyazi}},
  journal = {arXiv:2407.19890},
  year    = {2024},
}"""


def report(
    run: Any,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    comparison: str | None = None,
) -> Path:
    """Write a report as one HTML file that contains its style and images.

    It has the verdict with its reasons and every check, the settings and the data of the run, the summary
    with plain and zero-variance means, the evidence if the kernel estimated it, the plots, and how to cite.
    The file is written under a temporary name in the same folder and then renamed.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, a tree with a posterior, or an `Analysis`.
        path: the file to write.
        title: heading; None takes the name of the model.
        comparison: text that compares the draws with reference values, shown without changes.

    Returns:
        The path of the file.

    Raises:
        ValueError: there are no draws.
        OSError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is not a folder; make it before writing a report there.")
    analysis = analysis_of(run)
    tree, findings = analysis.tree, analysis.findings
    body = [verdict_box(findings), section("What was run", facts_list(facts(tree)))]
    found = evidence(tree)
    if found:
        body.append(section("Evidence", facts_list(found), paragraph(_EVIDENCE)))
    body.append(section("Summary", summary_table(analysis.table, tree["posterior"].sizes["chain"])))
    if findings.checks:
        body.append(section("Checks", checks_table(findings.checks)))
    if comparison:
        body.append(section("Against reference values", preformatted(comparison)))
    body += [section(image.title, figure(image), kind="whole") for image in analysis.plots]
    version = str(tree.attrs.get("inference_library_version", ""))
    body.append(section("How to cite", preformatted(_CITE % version), kind="whole"))
    heading = title or str(tree.attrs.get("model") or "Posterior")
    write_atomically(target, page(heading, _lead(tree), body, _versions(tree)).encode())
    return target


_EVIDENCE = (
    "The evidence is the marginal likelihood of the observed sites, in nats; constants that a potential "
    "leaves out are missing from it. Stepping stones upwards lie below it, downwards above, in expectation."
)


def facts(tree: xr.DataTree) -> dict[str, str]:
    """The settings of a run in words, from label to value, without unknown facts."""
    attrs = tree.attrs
    size = tree["posterior"].sizes
    chains, draws = size["chain"], size["draw"]
    known = {
        "Model": attrs.get("model"),
        "Parameters": _shapes(tree, "posterior", 2),
        "Data": _shapes(tree, "observed_data", 0),
        "Constants": _shapes(tree, "constant_data", 0),
        "Kernel": attrs.get("kernel"),
        "Settings": attrs.get("kernel_settings"),
        "Chains": f"{chains}" + (f" ({attrs['chain_method']})" if "chain_method" in attrs else ""),
        "Draws": f"{draws:,} in each chain, {chains * draws:,} together",
        "Warm-up": f"{int(attrs['num_warmup']):,} iterations" if "num_warmup" in attrs else None,
        "Thinning": f"every {attrs['thinning']}th draw is kept" if attrs.get("thinning", 1) != 1 else None,
        "Evaluations in warm-up": _count(attrs.get("warmup_evals")),
        "Evaluations in sampling": _count(
            attrs.get("sampling_evals"), exact=attrs.get("sampling_evals_exact", 1)
        ),
        "Solve": _solve(attrs),
        "Seed": attrs.get("seed"),
        "Precision": attrs.get("precision"),
        "Wall time": f"{float(attrs['wall_seconds']):.1f} s" if "wall_seconds" in attrs else None,
        "Made": attrs.get("created_at"),
    }
    return {label: str(value) for label, value in known.items() if value not in (None, "")}


def evidence(tree: xr.DataTree) -> dict[str, str]:
    """The evidence and its ladder in words; empty if the kernel did not estimate it."""
    attrs = tree.attrs
    if not np.isfinite(float(attrs.get("log_evidence", np.nan))):
        return {}
    value, error = float(attrs["log_evidence"]), float(attrs["log_evidence_error"])
    known = {
        "Log evidence": f"{value:.4f} \N{PLUS-MINUS SIGN} {error:.2g}",
        "Stepping stones": f"{float(attrs['log_evidence_lower']):.4f} up, "
        f"{float(attrs['log_evidence_upper']):.4f} down",
        "Particles before the ladder": f"{float(attrs['particle_log_evidence']):.4f}",
        "Ladder": f"{int(attrs['rungs'])} rungs, barrier {float(attrs['barrier']):.2f}",
        "Round trips": f"{int(attrs['round_trips']):,}",
    }
    missed = float(attrs.get("missed_mass", 0))
    return known | ({"Mass of modes that particles missed": f"{missed:.2g}"} if missed > 0 else {})


def _shapes(tree: xr.DataTree, group: str, skip: int, most: int = 12) -> str | None:
    """The variables of a group with their shapes, `y (8), sigma (8)`; scalars by name only."""
    if group not in tree.children or not tree[group].data_vars:
        return None
    words = []
    for name, values in tree[group].data_vars.items():
        shape = values.shape[skip:]
        words.append(
            f"{name} ({' \N{MULTIPLICATION SIGN} '.join(f'{n:,}' for n in shape)})" if shape else str(name)
        )
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return ", ".join(words)


def _solve(attrs: Any) -> str | None:
    """The result of QDE's imaginary-time solve."""
    if "solve_outcome" not in attrs:
        return None
    return (
        f"{attrs['solve_outcome']}; acceptance of its trial {float(attrs['solve_acceptance']):.2f}, "
        f"{float(attrs['global_share']):.0%} of the draws are global moves"
    )


def _count(evaluations: Any, *, exact: Any = 1) -> str | None:
    if evaluations is None:
        return None
    return f"{'' if exact else 'about '}{int(evaluations):,}"


def _lead(tree: xr.DataTree) -> str:
    size = tree["posterior"].sizes
    kernel = tree.attrs.get("kernel")
    return f"{size['chain'] * size['draw']:,} draws of the posterior" + (f" by {kernel}." if kernel else ".")


def _versions(tree: xr.DataTree) -> str:
    attrs = tree.attrs
    library = attrs.get("inference_library")
    names = [f"{library} {attrs.get('inference_library_version', '')}".strip()] if library else []
    others = [name for name in ("jax", "numpyro", "arviz") if f"{name}_version" in attrs]
    names += [f"{name} {attrs[f'{name}_version']}" for name in others]
    return " \N{MIDDLE DOT} ".join(names)
