"""The entry and its result: any solver slots in, and a ground state is an immutable pytree."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import GroundState, SpectralGrid, Wavefunction, ground_state

HARMONIC = Hamiltonian.from_objective(lambda x: 0.5 * x @ x, dim=2, diffusion=0.5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianWavefunction:
    """`psi^2 = Normal(0, variance)` in two dimensions."""

    variance: jax.Array
    dim: int = dataclasses.field(default=2, metadata={"static": True})
    support: None = dataclasses.field(default=None, metadata={"static": True})

    def log_psi(self, x):
        return -x @ x / (4 * self.variance) - 0.5 * jnp.log(2 * jnp.pi * self.variance)

    def sample(self, key):
        return jnp.sqrt(self.variance) * jax.random.normal(key, (2,))


@dataclasses.dataclass(frozen=True)
class StochasticSolver:
    """A solver from outside, which needs a key and knows no gap."""

    energy: float = 1.0

    def solve(self, hamiltonian, key):
        if key is None:
            raise ValueError("StochasticSolver needs a key: ground_state(..., key=jax.random.key(0)).")
        wavefunction: Wavefunction = GaussianWavefunction(jnp.asarray(0.5))
        energy = jnp.asarray(self.energy)
        return GroundState(energy, 0.1 * energy, None, None, None, hamiltonian.diffusion, wavefunction, {})


def test_a_solver_from_outside_slots_in():
    state = ground_state(HARMONIC, StochasticSolver(), key=jax.random.key(0))
    x = jnp.array([0.3, -1.0])
    np.testing.assert_allclose(state.log_psi(x), -x @ x / 2 - 0.5 * np.log(np.pi), rtol=1e-6)
    np.testing.assert_allclose(state.log_prob(x), 2 * state.log_psi(x), rtol=1e-6)
    np.testing.assert_allclose(state.drift(x), -x, rtol=1e-6)  # 2 D grad log psi
    assert (state.dim, state.gap, state.levels, state.support) == (2, None, None, None)
    with pytest.raises(ValueError, match="needs a key"):
        ground_state(HARMONIC, StochasticSolver())


@pytest.mark.parametrize("key", [jax.random.key, jax.random.PRNGKey])
def test_draws_have_the_shape_asked_for(key):
    state = ground_state(HARMONIC, StochasticSolver(), key=key(0))
    assert state.sample(key(1)).shape == (2,)
    assert state.sample(key(1), (3, 4)).shape == (3, 4, 2)
    assert state.sample(key(1), (0, 4)).shape == (0, 4, 2)
    many = state.sample(key(1), (40_000,))  # more than are drawn at once
    assert abs(float(jnp.var(many)) - 0.5) < 5 * 0.5 * np.sqrt(2 / 80_000)
    assert len(np.unique(many[:, 0])) > 39_000


def test_it_crosses_jit_and_cannot_be_changed():
    state = ground_state(HARMONIC, StochasticSolver(), key=jax.random.key(0))
    x = jnp.array([0.3, -1.0])
    np.testing.assert_allclose(jax.jit(lambda s, y: s.log_prob(y))(state, x), state.log_prob(x), rtol=1e-6)
    doubled = jax.tree_util.tree_map(lambda leaf: 2 * leaf, state)
    assert float(doubled.energy) == 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.energy = 0.0


def test_a_notebook_shows_the_numbers():
    one = Hamiltonian.from_objective(lambda x: 0.5 * x @ x, dim=1, diffusion=0.5)
    page = ground_state(one, SpectralGrid(bounds=(-8.0, 8.0), points=64, states=3))._repr_html_()
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", page)
    shown = dict(zip(cells[::2], cells[1::2], strict=True))
    energy, error = shown["energy"].split(" \N{PLUS-MINUS SIGN} ")
    assert float(energy) == pytest.approx(0.5, rel=1e-5)
    assert float(error) < 1e-3
    assert float(shown["gap"]) == pytest.approx(1, rel=1e-4)
    assert [float(level) for level in shown["levels"].split(", ")] == pytest.approx([0.5, 1.5, 2.5], rel=1e-4)
    assert shown["coordinates"] == "1"
    state = ground_state(HARMONIC, StochasticSolver(), key=jax.random.key(0))
    assert "gap" not in state._repr_html_()  # this solver knows none
    batched = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    assert batched._repr_html_() is None

    @jax.jit
    def shown_inside(traced):
        assert traced._repr_html_() is None
        return traced.energy

    assert shown_inside(state) == state.energy


def test_bad_input_is_refused():
    state = ground_state(HARMONIC, StochasticSolver(), key=jax.random.key(0))
    with pytest.raises(TypeError, match="solver must be an object with a method solve.*SpectralGrid"):
        ground_state(HARMONIC, SpectralGrid)  # the class, not an instance
    with pytest.raises(TypeError, match="hamiltonian must be a Hamiltonian, got function"):
        ground_state(lambda x: x @ x, StochasticSolver())
    with pytest.raises(FloatingPointError, match="StochasticSolver returned the energy nan"):
        ground_state(HARMONIC, StochasticSolver(energy=float("nan")), key=jax.random.key(0))
    for method in (state.log_psi, state.log_prob, state.drift):
        with pytest.raises(ValueError, match=r"x must be one point of shape \(2,\), got \(5, 2\).*vmap"):
            method(jnp.zeros((5, 2)))
    with pytest.raises(TypeError, match="shape must be a tuple of integers"):
        state.sample(jax.random.key(0), 5)
    with pytest.raises(ValueError, match="no negative number"):
        state.sample(jax.random.key(0), (-1,))
