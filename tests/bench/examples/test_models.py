"""Every example has a finite log density and gradient where its samplers start."""

import jax
import numpy as np
import pytest
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer import init_to_uniform
from numpyro.infer.util import initialize_model, potential_energy

from qdesampler.bench.examples.models.mixtures import log_sine_constant
from qdesampler.bench.examples.registry import EXAMPLES, GROUPS

pytestmark = pytest.mark.contract

DIMENSIONS_OF_HIERARCHIES = {
    "hierarchy-centred": 205,
    "hierarchy-reparametrised": 306,
    "hierarchy-crossed": 134,
}


def test_every_example_is_named_as_in_the_registry_and_can_be_traced():
    """Density by abstract evaluation alone, which compiles nothing; its slow sibling computes."""
    sizes, hierarchies = {}, []
    for name, build in EXAMPLES.items():
        built = build()
        assert built.case.name == name
        assert built.group in GROUPS
        assert all(np.isfinite(np.asarray(value, float)).all() for value in built.case.data.values()), name

        found = jax.eval_shape(lambda key, built=built: _potential(built, key), jax.random.key(0))
        assert found[0].shape == ()
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(found[1]))
        hierarchies += [name] * (built.group == "hierarchies")
    assert {name: sizes[name] for name in hierarchies} == DIMENSIONS_OF_HIERARCHIES


def _potential(built, key):
    """The potential energy at a point uniform in (-2, 2), and the point."""
    model, data = built.case.model, built.case.data
    start = handlers.substitute(handlers.seed(model, key), substitute_fn=init_to_uniform(radius=2))
    sites = handlers.trace(start).get_trace(**data).values()
    latent = [site for site in sites if site["type"] == "sample" and not site["is_observed"]]
    z = {site["name"]: biject_to(site["fn"].support).inv(site["value"]) for site in latent}
    return potential_energy(model, (), data, z), z


def test_the_constant_of_the_sine_density_by_quadrature_on_the_torus():
    k, kappa, c = np.array([2.0, 40.0, 300.0]), np.array([3.0, 50.0, 200.0]), np.array([0.5, 20.0, 60.0])
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    x, y = angle[:, None, None], angle[:, None]
    exponent = k * np.cos(x) + kappa * np.cos(y) + c * np.sin(x) * np.sin(y) - k - kappa
    direct = np.log(np.mean(np.exp(exponent), axis=(0, 1))) + k + kappa + 2 * np.log(2 * np.pi)
    found = log_sine_constant(*(np.asarray(a, np.float32) for a in (k, kappa, c)))
    np.testing.assert_allclose(found, direct, rtol=2e-6, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_starts_where_density_and_gradient_are_finite(name):
    built = EXAMPLES[name]()
    start = initialize_model(
        jax.random.split(jax.random.key(0), 2),
        built.case.model,
        init_strategy=built.init_strategy or init_to_uniform,
        model_kwargs=built.case.data,
    )
    found = start.param_info
    assert np.isfinite(found.potential_energy).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.z_grad))
    if built.summary:
        draws = {site: np.asarray(x)[None] for site, x in jax.vmap(start.postprocess_fn)(found.z).items()}
        assert all(np.isfinite(x).all() and x.shape[:2] == (1, 2) for x in built.summary(draws).values())
