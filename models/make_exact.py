"""Make the ``reference.json`` of a model whose posterior is known without sampling.

    python models/make_exact.py models/red_mites

The model's folder holds an ``exact.py`` (NumPy and SciPy only, so that nothing is shared with the NumPyro
model) that defines ``SOURCE``, a sentence on the method, and one of

- ``GRID``, ``log_joint(data, u)`` and ``values(data, u)``: quadrature. ``GRID`` is
  ``{coordinate: (low, high, points)}``, at most three unbounded coordinates; ``u`` gives each coordinate's
  values at a batch of points, shape ``(n,)``. ``log_joint`` is the log density of data and coordinates,
  Jacobians included, with all else integrated out; ``values`` gives each parameter at these points.
- ``moments(data)``: a sum of finitely many terms. Returns the parameters, as below with a last axis of
  terms, and the terms' log weights.

A parameter is an array of shape ``(n,)``, or what it follows given the coordinates: ``("normal", mean,
variance)``, ``("gamma", shape, rate)`` or ``("moments", E x, E x^2, E x^4)``.

The trapezoidal rule on the whole line converges faster than any power of the step for smooth densities. Its
error is measured: all values are computed again with 1.5 times as many points, the difference is written as
``mcse`` (1e-9 standard deviations at least), and ``ess`` is (sd / mcse)^2, the number of independent draws
that would be as exact. The values are refused if a difference exceeds 1e-4 standard deviations, or if the
density at the grid's edge exceeds 1e-10 of its maximum.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

BATCH = 20_000  # points at a time
REFINEMENT, LARGEST_ERROR, LARGEST_EDGE, LEAST_ERROR = 1.5, 1e-4, 1e-10, 1e-9


def load(folder: Path) -> tuple[ModuleType, dict[str, Any]]:
    """The module of ``exact.py`` and the data, lists as arrays."""
    spec = importlib.util.spec_from_file_location(f"exact_{folder.name}", folder / "exact.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    file = folder / "data.json"
    data = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return module, {k: np.array(v) if isinstance(v, list) else v for k, v in data.items()}


def conditional_moments(value: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E x, E x^2 and E x^4 of a parameter given the coordinates."""
    if not isinstance(value, tuple):
        value = np.asarray(value, float)
        return value, value**2, value**4
    kind, *arguments = value
    if kind == "moments":
        return arguments[0], arguments[1], arguments[2]
    first, second = arguments
    if kind == "normal":
        return first, first**2 + second, first**4 + 6 * first**2 * second + 3 * second**2
    if kind != "gamma":
        raise ValueError(f"no law {kind!r}; expected 'normal', 'gamma' or 'moments'.")
    square = first * (first + 1) / second**2
    return first / second, square, square * (first + 2) * (first + 3) / second**2


def quadrature(module: ModuleType, data: Mapping[str, Any], refinement: float) -> tuple[dict, float]:
    """Raw moments of orders 1, 2 and 4 of every parameter, and the log evidence, by the trapezoidal rule."""
    axes = {}
    for name, (low, high, points) in module.GRID.items():
        axes[name] = np.linspace(low, high, round(points * refinement))
    shape = tuple(len(axis) for axis in axes.values())
    cell = np.prod([axis[1] - axis[0] for axis in axes.values()])
    size = int(np.prod(shape))

    def batch(start):
        index = np.unravel_index(np.arange(start, min(start + BATCH, size)), shape)
        return {name: axis[i] for (name, axis), i in zip(axes.items(), index, strict=True)}

    starts = range(0, size, BATCH)
    log_p = np.concatenate([module.log_joint(data, batch(start)) for start in starts])
    top = log_p.max()
    weight = np.exp(log_p - top)
    inner = np.zeros(shape)
    inner[tuple(slice(1, -1) for _ in shape)] = 1
    edge = np.max(weight.reshape(shape) * (1 - inner))
    if not edge < LARGEST_EDGE:
        raise ValueError(f"the density at the edge of the grid is {edge:.1e} of its maximum: widen GRID.")
    total = weight.sum()
    sums: dict[str, np.ndarray] = {}
    for start in starts:
        part = weight[start : start + BATCH] / total
        if not part.any():
            continue
        for name, value in module.values(data, batch(start)).items():
            moments = [np.sum(part * m) for m in conditional_moments(value)]
            sums[name] = sums.get(name, np.zeros(3)) + moments
    return sums, float(top + np.log(total * cell))


def enumeration(module: ModuleType, data: Mapping[str, Any]) -> tuple[dict, float]:
    """The same by a sum over finitely many terms."""
    parameters, log_weight = module.moments(data)
    top = log_weight.max()
    weight = np.exp(log_weight - top)
    total = weight.sum()
    sums = {
        name: np.array([np.sum(weight / total * m) for m in conditional_moments(value)])
        for name, value in parameters.items()
    }
    return sums, float(top + np.log(total))


def exact_reference(folder: Path) -> dict[str, Any]:
    """The content of ``reference.json``; raises ValueError where the grid is too coarse or too narrow."""
    module, data = load(folder)
    if hasattr(module, "GRID"):
        coarse, coarse_evidence = quadrature(module, data, 1.0)
        fine, evidence = quadrature(module, data, REFINEMENT)
    else:
        fine, evidence = enumeration(module, data)
        coarse, coarse_evidence = fine, evidence
    entries, largest = {}, 0.0
    for name, (mean, square, fourth) in fine.items():
        sd, sd_sq = np.sqrt(square - mean**2), np.sqrt(fourth - square**2)
        if sd_sq == 0:  # of a spin, +1 or -1, whose square is known
            sd_sq = sd
        errors = [
            max(abs(new - old), LEAST_ERROR * scale)
            for new, old, scale in zip((mean, square), coarse[name], (sd, sd_sq), strict=False)
        ]
        largest = max(largest, errors[0] / sd, errors[1] / sd_sq)
        entry = {"mean": mean, "sd": sd, "mean_sq": square, "sd_sq": sd_sq, "ess": (sd / errors[0]) ** 2}
        entry |= {"mcse": errors[0], "mcse_sq": errors[1]}
        entries[name] = {
            k: float(f"{v:.{3 if k in ('ess', 'mcse', 'mcse_sq') else 12}g}") for k, v in entry.items()
        }
    if not largest < LARGEST_ERROR:
        raise ValueError(f"the error is {largest:.1e} standard deviations: give GRID more points.")
    reference: dict[str, Any] = {
        "source": f"{module.SOURCE}; numerical error at most {largest:.1e} standard deviations; made with "
        "models/make_exact.py"
    }
    if getattr(module, "NORMALISED", True):
        error = max(abs(evidence - coarse_evidence), 1e-9)
        reference["log_evidence"] = {
            "value": float(f"{evidence:.12g}"),
            "mcse": float(f"{error:.3g}"),
            "source": module.SOURCE,
        }
    return reference | {"parameters": entries}


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make a model's reference.json from its exact.py.")
    parser.add_argument("models", type=Path, nargs="+", help="folders of models")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    options = parser.parse_args(arguments)
    for folder in options.models:
        out = folder / "reference.json"
        if out.exists() and not options.force:
            print(f"{out} exists; --force replaces it.", file=sys.stderr)
            return 1
        reference = exact_reference(folder)
        out.write_text(json.dumps(reference, indent=1) + "\n", encoding="utf-8")
        print(f"{folder.name}: {reference['source']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
