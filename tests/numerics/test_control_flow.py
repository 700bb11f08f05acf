"""`update_if`: the branch runs where it is wanted, and nowhere when no mapped chain wants it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.numerics.control_flow import update_if


def counted_update(calls):
    def update(x):
        jax.debug.callback(lambda: calls.append(1))
        return {"v": x["v"] * 2, "n": x["n"] + 1}

    return update


@pytest.mark.parametrize("wanted", [[False, False, False], [True, False, True]])
def test_mapped_chains_update_each_for_itself(wanted):
    calls = []
    operand = {"v": jnp.arange(6.0).reshape(3, 2), "n": jnp.zeros(3, int)}
    run = jax.jit(jax.vmap(lambda p, x: update_if(p, counted_update(calls), x)))
    result = run(jnp.array(wanted), operand)
    jax.effects_barrier()
    factor = np.where(wanted, 2, 1)[:, None]
    np.testing.assert_array_equal(result["v"], operand["v"] * factor)
    np.testing.assert_array_equal(result["n"], np.array(wanted, int))
    assert bool(calls) == any(wanted)


def test_plain_nested_and_scanned_use():
    def double(x):
        return 2 * x

    assert float(jax.jit(lambda p, x: update_if(p, double, x))(True, jnp.ones(()))) == 2
    wanted = jnp.array([[True, False], [False, False]])
    nested = jax.vmap(jax.vmap(lambda p, x: update_if(p, double, x)))(wanted, jnp.ones((2, 2)))
    np.testing.assert_array_equal(nested, np.where(wanted, 2, 1))

    def body(x, i):
        return update_if(i == 3, double, x), None

    np.testing.assert_array_equal(
        jax.vmap(lambda x: jax.lax.scan(body, x, jnp.arange(5))[0])(jnp.array([1.0, 5.0])), [2.0, 10.0]
    )


def test_shared_operand_leaves_are_spread_over_mapped_chains():
    result = jax.vmap(lambda p: update_if(p, lambda x: x + 1, jnp.zeros(2)))(jnp.array([True, False]))
    np.testing.assert_array_equal(result, [[1, 1], [0, 0]])
