"""Moments in unconstrained space that long runs have stored, and the sites that draws are judged by."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qdesampler.bench.targets.hard import JUDGED_SITES, data_digest
from qdesampler.infer import ModelCase, validate_reference

__all__ = ["FOLDER", "STATISTICS", "judged_sites", "read_truth", "unconstrained_truth", "write_truth"]

FOLDER = Path(__file__).parent / "truth_data"
STATISTICS = ("mean", "sd", "mean_sq", "sd_sq", "ess", "mcse", "mcse_sq")


def judged_sites(case: ModelCase, latent: Sequence[str]) -> Sequence[str]:
    """The sites whose draws count: the latent ones, unless the built-in target names others."""
    return JUDGED_SITES.get(case.name, latent) if _is_built_in(case) else latent


def unconstrained_truth(case: ModelCase, folder: Path | None = None) -> dict[str, Any] | None:
    """The stored moments of a built-in target, in the form of a reference; None where there are none.

    Args:
        case: the target; a model of the same name from elsewhere has no stored moments.
        folder: where to look, `truth_data` beside this file by default.

    Raises:
        ValueError: the file does not hold what it should, or belongs to other data than the target's.
    """
    file = (folder or FOLDER) / f"{case.name}.npz"
    if not _is_built_in(case) or not file.is_file():
        return None
    truth = read_truth(file)
    digest = data_digest(case.data)
    if truth["settings"].get("data") != digest:
        raise ValueError(
            f"{file} was made for data {truth['settings'].get('data')}, but {case.name} now has {digest}: "
            f"make it anew with python -m qdesampler.bench.targets.make_truths {case.name}."
        )
    return truth


def write_truth(
    file: Path, parameters: Mapping[str, Mapping[str, float]], settings: Mapping[str, Any]
) -> None:
    """Store the entries of a reference (names of unconstrained scalars), and how they were made, as `.npz`.

    Raises:
        ValueError: an entry is not one of a reference.
    """
    validate_reference({"source": "a long run", "parameters": parameters})
    columns: dict[str, Any] = {
        key: np.array([entry[key] for entry in parameters.values()]) for key in STATISTICS
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        np.savez_compressed(
            out, names=np.array(list(parameters)), settings=np.array(json.dumps(dict(settings))), **columns
        )


def read_truth(file: Path) -> dict[str, Any]:
    """Read what `write_truth` wrote: `source`, `parameters` and `settings`.

    Raises:
        ValueError: parts are missing or malformed.
    """
    with np.load(file, allow_pickle=False) as stored:
        lacking = {"names", "settings", *STATISTICS} - set(stored.files)
        if lacking:
            raise ValueError(f"{file} lacks {', '.join(sorted(lacking))}.")
        columns = {key: stored[key].tolist() for key in STATISTICS}
        names, settings = stored["names"].tolist(), json.loads(str(stored["settings"]))
    parameters = {name: {key: columns[key][i] for key in STATISTICS} for i, name in enumerate(names)}
    truth = {"source": f"long run: {settings}", "parameters": parameters, "settings": settings}
    validate_reference(truth)
    return truth


def _is_built_in(case: ModelCase) -> bool:
    return case.path.parent == Path(__file__).parent
