"""Bad input is refused before any work, with what was given, what was expected and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.infer.qde.kernel import QDE


def model():
    numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))


def potential(z):
    return 0.5 * jnp.sum(z**2)


class NoGroundState:
    dim = 1


AT_ONCE = {
    "no source": ({}, "must be specified; got none"),
    "two sources": ({"model": model, "potential_fn": potential}, r"got \['model', 'potential_fn'\]"),
    "three sources": (
        {"model": model, "potential_fn": potential, "ground_state": NoGroundState()},
        "'ground_state'",
    ),
    "model is no function": ({"model": 3}, "`model` must be callable; got int"),
    "potential is no function": ({"potential_fn": "U"}, "`potential_fn` must be callable; got str"),
    "no ground state": ({"ground_state": NoGroundState()}, r"without \['log_prob', 'sample'\]"),
    "kinetic_fn": ({"model": model, "kinetic_fn": lambda *_: 0.0}, "takes no `kinetic_fn`"),
    "zero step": ({"model": model, "step_size": 0.0}, "step_size is 0.0; expected a positive"),
    "negative step": ({"model": model, "step_size": -1}, "step_size is -1"),
    "NaN step": ({"model": model, "step_size": float("nan")}, "step_size is nan"),
    "infinite length": ({"model": model, "trajectory_length": float("inf")}, "trajectory_length is inf"),
    "zero length": ({"model": model, "trajectory_length": 0}, "trajectory_length is 0"),
    "target of one": ({"model": model, "target_accept_prob": 1.0}, "between 0 and 1"),
    "negative target": ({"model": model, "target_accept_prob": -0.1}, "target_accept_prob is -0.1"),
    "dynamics": (
        {"model": model, "dynamics": "quantum"},
        r"dynamics is 'quantum'; expected one of \['canonical'",
    ),
    "integrator": ({"model": model, "integrator": "euler"}, "expected one of .*'leapfrog', 'mn2'"),
    "depth of zero": ({"model": model, "max_tree_depth": 0}, "max_tree_depth is 0"),
    "depth of three parts": ({"model": model, "max_tree_depth": (5, 5, 5)}, "pair of such integers"),
    "fractional depth": ({"model": model, "max_tree_depth": 2.5}, "max_tree_depth is 2.5"),
}


@pytest.mark.parametrize("case", AT_ONCE)
def test_refused_when_the_kernel_is_made(case):
    arguments, message = AT_ONCE[case]
    with pytest.raises(ValueError, match=message):
        QDE(**arguments)


INDEFINITE = np.array([[1.0, 2.0], [2.0, 1.0]])
AT_START = {
    "isokinetic in one dimension": (
        {"potential_fn": potential, "dynamics": "isokinetic"},
        jnp.zeros(1),
        'needs at least 2 dimensions and this target has 1; use dynamics="canonical"',
    ),
    "vector potential": ({"potential_fn": lambda z: 0.5 * z**2}, jnp.zeros(3), r"returned shape \(3,\)"),
    "one-element potential": ({"potential_fn": lambda z: 0.5 * z**2}, jnp.zeros(1), r"returned shape \(1,\)"),
    "integer potential": ({"potential_fn": lambda z: jnp.array(1)}, jnp.zeros(1), "returned int32"),
    "pair of potentials": (
        {"potential_fn": lambda z: (z[0], z[0])},
        jnp.zeros(1),
        "must return a scalar array",
    ),
    "metric of another size": (
        {"potential_fn": potential, "inverse_mass_matrix": np.ones(3)},
        jnp.zeros(2),
        r"has shape \(3,\); expected \(2,\) or \(2, 2\)",
    ),
    "indefinite metric": (
        {"potential_fn": potential, "inverse_mass_matrix": INDEFINITE},
        jnp.zeros(2),
        "positive definite; its smallest eigenvalue after scaling to unit diagonal is -1",
    ),
    "negative metric": (
        {"potential_fn": potential, "inverse_mass_matrix": -np.ones(2)},
        jnp.zeros(2),
        "positive definite",
    ),
    "metric with NaN": (
        {"potential_fn": potential, "inverse_mass_matrix": np.full((2, 2), np.nan)},
        jnp.zeros(2),
        "holds NaN or infinity",
    ),
    "asymmetric metric": (
        {"potential_fn": potential, "inverse_mass_matrix": np.array([[1.0, 0.5], [0.0, 1.0]])},
        jnp.zeros(2),
        "not symmetric",
    ),
    "blocks of an array": (
        {"potential_fn": potential, "dense_mass": [("a",)]},
        jnp.zeros(2),
        "need a model .or a dict position.",
    ),
    "unknown site": (
        {"model": model, "dense_mass": [("a", "c")]},
        None,
        r"names sites \['c'\]; .* \['a', 'b'\]",
    ),
    "repeated site": ({"model": model, "dense_mass": [("a", "b"), ("b",)]}, None, "more than one block"),
    "metric of an unknown site": (
        {"model": model, "inverse_mass_matrix": {("c",): np.ones(1)}},
        None,
        r"inverse_mass_matrix names sites \['c'\]",
    ),
    "metric of repeated sites": (
        {"model": model, "inverse_mass_matrix": {("a",): np.ones(1), ("a", "b"): np.ones(3)}},
        None,
        "more than one block",
    ),
    "block of another shape": (
        {"model": model, "inverse_mass_matrix": {("b",): np.ones(3)}},
        None,
        r"has shape \(3,\); expected \(2,\) or \(2, 2\)",
    ),
    "metric wider than its blocks": (
        {
            "model": model,
            "dense_mass": [("b",)],
            "inverse_mass_matrix": np.eye(3) + 0.3,
        },
        None,
        "that dense_mass keeps apart",
    ),
}


@pytest.mark.parametrize("case", AT_START)
def test_refused_when_the_chain_starts(case):
    arguments, start, message = AT_START[case]
    with pytest.raises(ValueError, match=message):
        QDE(**arguments).init(jax.random.key(0), 10, start, (), {})


def test_a_traced_metric_is_refused():
    def start(metric):
        return QDE(potential_fn=potential, inverse_mass_matrix=metric).init(
            jax.random.key(0), 10, jnp.zeros(2)
        )

    with pytest.raises(ValueError, match="inverse_mass_matrix is traced"):
        jax.jit(start)(jnp.ones(2))


def test_a_model_kernel_needs_init_before_use():
    kernel = QDE(model)
    for use in (kernel.get_potential_fn, kernel.get_constrain_fn, lambda: kernel.postprocess_fn((), {})):
        with pytest.raises(RuntimeError, match="call `init`"):
            use()
