"""Handlers, reparameterisations, plates, sites that are no draw: what wraps a model before a kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints, transforms
from numpyro.infer.reparam import (
    CircularReparam,
    ExplicitReparam,
    HaarReparam,
    LocScaleReparam,
    TransformReparam,
    UnitJacobianReparam,
)

from tests.support.kinds.kind import Table

HANDLERS = Table()
add = HANDLERS.add


def two_levels(y=3.0):
    """`mu ~ N(0, 1)`, `x ~ N(mu, 1)`, `y ~ N(x, 1)`."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    x = numpyro.sample("x", dist.Normal(mu, 1.0))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


BOTH = {"mu": 1.0, "x": 2.0}  # for y = 3

# ---- reparameterisations -----------------------------------------------------------------------------------

for _name, _reparam in {
    "decentred": LocScaleReparam(0.0),
    "half centred": LocScaleReparam(0.5),
    "centred as learnt by a parameter": LocScaleReparam(None),
    "explicit map": ExplicitReparam(transforms.AffineTransform(1.0, 3.0)),
}.items():
    add(_name, expected=BOTH)(handlers.reparam(two_levels, config={"x": _reparam}))


@add("transform of a base", expected={"x": 5.0, "y": 10.0})
@handlers.reparam(config={"x": TransformReparam(), "y": TransformReparam()})
def _():
    shift = transforms.AffineTransform(5.0, 2.0)
    x = numpyro.sample("x", dist.TransformedDistribution(dist.Normal(0.0, 1.0), shift))
    numpyro.sample(
        "y", dist.TransformedDistribution(dist.Normal(x, 1.0), transforms.AffineTransform(5.0, 1.0))
    )


@add("wavelets", expected={"x": np.linalg.solve(np.eye(4) + np.ones((4, 4)), np.full(4, 6.0))})
@handlers.reparam(config={"x": HaarReparam()})
def _():
    x = numpyro.sample("x", dist.Normal(jnp.zeros(4), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(jnp.sum(x), 1.0), obs=6.0)


@add("unit Jacobian", expected={"x": np.array([1.0, 2.0])})
@handlers.reparam(config={"x": UnitJacobianReparam(transforms.PermuteTransform(jnp.array([1, 0])))})
def _():
    numpyro.sample("x", dist.Normal(jnp.array([1.0, 2.0]), 1.0).to_event(1))


@add(
    "several at once",
    expected={"x": 2.0, "sin": 0.0},
    of={"sin": lambda s: np.sin(s["angle"] - 3)},
    rounds=True,
)
@handlers.reparam(config={"x": LocScaleReparam(0.0), "angle": CircularReparam()})
def _():
    two_levels()
    numpyro.sample("angle", dist.VonMises(3.0, 5.0))


# ---- handlers ----------------------------------------------------------------------------------------------


@add("scale", expected={"x": 3 * 4 / 4.5})
def _():
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    x = numpyro.sample("x", dist.Normal(mu, 1.0))
    with handlers.scale(scale=4.0):
        numpyro.sample("y", dist.Normal(x, 1.0), obs=3.0)


@add("mask of rows", expected={"x": (1 + 4) / 3})
def _():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    with handlers.mask(mask=jnp.array([True, False, True])):
        numpyro.sample("y", dist.Normal(x, 1.0).expand([3]), obs=jnp.array([1.0, 100.0, 4.0]))


@add("mask of a law", expected={"x": (1 + 4) / 3, "flat": 3.0})
def _():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    law = dist.Normal(x, 1.0).expand([3]).mask(jnp.array([True, False, True])).to_event(1)
    numpyro.sample("y", law, obs=jnp.array([1.0, jnp.nan, 4.0]))
    flat = numpyro.sample("flat", dist.LogNormal(0.0, 1.0).mask(False))
    numpyro.factor("Gamma(3, 1)", -flat + 2 * jnp.log(flat))


add("condition", expected={"mu": 2.0})(
    handlers.condition(lambda: two_levels(3.0), data={"x": jnp.array(4.0)})
)
# The values of a kernel replace those of `substitute`: as under NUTS, `x` stays a latent site.
add("substitute", expected=BOTH)(handlers.substitute(two_levels, data={"x": 4.0}))
add("intervention", expected={"mu": 0.0})(handlers.do(two_levels, data={"x": 4.0}))
add("scope", expected={"a/mu": 1.0, "a/x": 2.0})(handlers.scope(two_levels, prefix="a"))
add("scopes", expected={"a/b/mu": 1.0, "a/b/x": 2.0})(
    handlers.scope(handlers.scope(two_levels, prefix="b"), prefix="a")
)
add("hidden deterministic sites", expected=BOTH)(
    handlers.block(
        lambda: (two_levels(), numpyro.deterministic("hidden", jnp.array(1.0)))[0],
        hide_fn=lambda site: site["type"] == "deterministic",
    )
)
add("marks of sites", expected=BOTH)(
    handlers.infer_config(two_levels, lambda site: {"my_mark": site["name"]})
)


@add("a seed inside", expected={"x": 1.0})
def _():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    with handlers.block(), handlers.seed(rng_seed=1):
        noise = numpyro.sample("noise", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(x + noise, 1.0), obs=2.0 + jax.lax.stop_gradient(noise))


@add("a key of the model", expected={"x": 1.0})
def _():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    key = numpyro.prng_key()
    spread = 0.0 if key is None else 0.0 * jax.random.normal(key)
    numpyro.sample("y", dist.Normal(x + spread, 1.0), obs=2.0)


# ---- parameters and modules --------------------------------------------------------------------------------


def with_parameter():
    loc = numpyro.param("loc", 2.0)
    x = numpyro.sample("x", dist.Normal(loc, 1.0))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=4.0)


add("parameter", expected={"x": 3.0})(with_parameter)
add("parameter lifted", expected={"loc": 4 / 3, "x": 8 / 3})(
    handlers.lift(with_parameter, prior={"loc": dist.Normal(0.0, 1.0)})
)


@add("parameter with a constraint", expected={"x": 0.0, "square": 4.0}, of={"square": lambda s: s["x"] ** 2})
def _():
    scale = numpyro.param("scale", jnp.array(2.0), constraint=constraints.positive)
    numpyro.sample("x", dist.Normal(0.0, scale))


@add("module of arrays drawn one by one", expected={"line": np.array([0.5, 1.0, 1.5])})
def _():
    """Layers as a tree: `y = w t + b`, with posterior means by symmetry of a saturated fit."""
    layers = {"out": {"w": jnp.zeros(()), "b": jnp.zeros(())}}
    names = iter(range(2))
    drawn = jax.tree.map(lambda leaf: numpyro.sample(f"p{next(names)}", dist.Normal(leaf, 10.0)), layers)
    line = numpyro.deterministic("line", drawn["out"]["w"] * jnp.arange(1.0, 4.0) + drawn["out"]["b"])
    numpyro.sample("y", dist.Normal(line, 0.01).to_event(1), obs=jnp.array([0.5, 1.0, 1.5]))


# ---- sites of odd sizes, lists and dicts of sites ----------------------------------------------------------


@add("list of sites", expected={f"x{i}": (i + 1) / 2 for i in range(5)})
def _():
    for i in range(5):
        x = numpyro.sample(f"x{i}", dist.Normal(0.0, 1.0))
        numpyro.sample(f"y{i}", dist.Normal(x, 1.0), obs=i + 1.0)


@add(
    "dict of arrays as data",
    args=({"a": jnp.array([1.0, 2.0]), "b": [jnp.array(3.0)]},),
    expected={"x": 6 / 4},
)
def _(data):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    for i, leaf in enumerate(jax.tree.leaves(data)):
        numpyro.sample(f"y{i}", dist.Normal(x, 1.0).expand(jnp.shape(leaf)), obs=leaf)


@add("site without entries", expected={"x": 1.0})
def _():
    numpyro.sample("nothing", dist.Normal(jnp.zeros(0), 1.0))
    numpyro.sample("x", dist.Normal(1.0, 1.0))


@add("fixed values", expected={"x": 2.0})
def _():
    fixed = numpyro.sample("fixed", dist.Delta(2.0), obs=jnp.array(2.0))
    numpyro.sample("x", dist.Normal(fixed, 1.0))


@add("improper prior and data", expected={"x": 2.0, "gap": 3.0})
def _():
    x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(x, 1.0).expand([2]).to_event(1), obs=jnp.array([1.0, 3.0]))
    gap = numpyro.sample("gap", dist.ImproperUniform(constraints.positive, (), ()))
    numpyro.sample("z", dist.Exponential(gap).expand([2]).to_event(1), obs=jnp.array([0.5, 0.5]))


@add("deterministic sites", expected={"x": 1.0, "twice": 2.0})
def _():
    x = numpyro.sample("x", dist.Normal(1.0, 1.0))
    numpyro.deterministic("twice", 2 * x)
    numpyro.deterministic("none", jnp.array(3.0))


@add(
    "extreme scales",
    expected={"scaled": 0.0},
    of={"scaled": lambda s: np.stack([s["tiny"] / 1e-6, (s["far"] - 1e6) / 1e3], -1)},
)
def _():
    numpyro.sample("far", dist.Normal(1e6, 1e3))
    numpyro.sample("tiny", dist.Normal(0.0, 1e-6))


# ---- plates ------------------------------------------------------------------------------------------------


@add("nested plates", expected={"mean": np.array([1.5, 3.0])})
def _():
    y = jnp.array([[1.0, 3.0], [2.0, 2.0], [3.0, 7.0]])
    with numpyro.plate("columns", 2, dim=-1):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", 3, dim=-2):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@add("rows fixed of a subsampled plate", expected={"mean": (1 + 4) * 2 / 5})
@handlers.substitute(data={"rows": jnp.array([0, 3])})
def _():
    y = jnp.arange(1.0, 5.0)
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 4, subsample_size=2) as rows:
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y[rows])


@add("plate of vectors", expected={"x": np.array([[0.5, 1.0], [1.5, 2.0]])})
def _():
    with numpyro.plate("rows", 2):
        x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=jnp.array([[1.0, 2.0], [3.0, 4.0]]))


# ---- potentials --------------------------------------------------------------------------------------------


@add(
    "potential of a tree",
    init_params={
        "a": {"b": np.zeros(2, np.float32)},
        "c": (np.zeros((), np.float32), np.zeros((2, 1), np.float32)),
    },
    expected={"b": np.array([1.0, 2.0]), "c": -1.0},
    of={"b": lambda s: s["a"]["b"], "c": lambda s: s["c"][0]},
)
def _(z):
    squares = (
        jnp.sum((z["a"]["b"] - jnp.array([1.0, 2.0])) ** 2) + (z["c"][0] + 1) ** 2 + jnp.sum(z["c"][1] ** 2)
    )
    return squares / 2


@add(
    "potential of an array",
    init_params=np.zeros(3, np.float32),
    expected={"z": np.arange(3.0)},
    of={"z": lambda s: s},
)
def _(z):
    return 0.5 * jnp.sum((z - jnp.arange(3.0)) ** 2)
