"""One example: a model with made-up data, and what its runs are judged by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from qdesampler.bench.targets.hard import generator
from qdesampler.infer import ModelCase

__all__ = ["Builder", "Example", "Summary", "example", "generator", "latent"]

Draws = Mapping[str, np.ndarray]
Summary = Callable[[Draws], dict[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Example:
    """A model of NumPyro's documentation as both samplers get it.

    Attributes:
        case: name, model and data.
        group: "examples", or "hierarchies", which are held to bars of their own.
        summary: maps the draws of all sites, each `(chains, draws, *event)`, to the arrays that they are
            judged by, of the same leading shape. A model whose labels or signs can be exchanged needs one
            that the exchange leaves as it is. None judges all unconstrained coordinates.
        init_strategy: NumPyro's strategy for the start, for both samplers; None leaves each its own.
        warmup, draws: iterations where the original asks for others than the command's defaults.
    """

    case: ModelCase
    group: str = "examples"
    summary: Summary | None = None
    init_strategy: Callable | None = None
    warmup: int | None = None
    draws: int | None = None


Builder = Callable[[], Example]


def example(
    name: str, model: Callable[..., Any], data: Mapping[str, Any] | None = None, **settings
) -> Example:
    """An `Example` of a model and its keyword arguments; `settings` are fields of `Example`."""
    case = ModelCase(name=name, model=model, data=dict(data or {}), reference=None, path=Path(__file__))
    return Example(case, **settings)


def latent(name: str, law: dist.Distribution, *shape: int) -> jax.Array:
    """Sample a site, as one event of this shape if one is given."""
    return jnp.asarray(numpyro.sample(name, law.expand(shape).to_event(len(shape)) if shape else law))
