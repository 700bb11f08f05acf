"""The weighted scan: shifts, exchanges and relabelling are exact whatever the reads; wrong twins are not."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.discrete.masks import mask_outcomes
from qdesampler.kernels.discrete.outcomes import DiscreteState, metropolis_outcomes
from qdesampler.kernels.discrete.scan import (
    ScanWeights,
    exchange_outcomes,
    fit_scan,
    relabel_outcomes,
    scan_mask,
    scan_move,
)

SIZES = (2, 3, 2, 2)
POSITIONS = np.array(list(itertools.product(*map(range, SIZES))), np.int32)
NUMBERS = np.cumprod([1, *SIZES[:0:-1]])[::-1]


def target(seed=0):
    """A rough table over all positions, one of them impossible."""
    rng = np.random.default_rng(seed)
    table = 1.5 * rng.normal(size=len(POSITIONS))
    table[rng.integers(len(POSITIONS))] = -np.inf
    values = jnp.asarray(table)
    pi = np.exp(table - table.max())
    return (lambda x: values[x.astype(jnp.int32) @ jnp.asarray(NUMBERS)]), pi / pi.sum()


def weights_of(pool):
    return fit_scan(jnp.asarray(pool), SIZES)


def pools():
    rng = np.random.default_rng(1)
    return {
        "constant": np.tile(POSITIONS[7], (3, 1)),
        "noise": POSITIONS[rng.integers(len(POSITIONS), size=40)],
    }


def exchange_cases(weights, x):
    """Every choice of the exchange at `x` and its probability."""
    off = np.flatnonzero(x != np.asarray(weights.usual))
    for i in off if off.size else range(len(SIZES)):
        for j, share in zip(np.asarray(weights.partners)[i], np.asarray(weights.partner)[i], strict=True):
            for new in range(SIZES[j]):
                if new != weights.usual[j]:
                    yield (i, j), new, share / (max(off.size, 1) or 1) / (SIZES[j] - 1)


def exchange_matrix(log_density, weights, outcomes):
    P = np.zeros((len(POSITIONS),) * 2)
    for row, x in enumerate(POSITIONS):
        state = DiscreteState(jnp.asarray(x), log_density(jnp.asarray(x)))
        for pair, new, chance in exchange_cases(weights, x):
            off = np.sum(x != np.asarray(weights.usual))
            chance = chance if off else chance / len(SIZES)
            found = outcomes(state, weights, jnp.asarray(pair), jnp.asarray(new))
            np.add.at(
                P[row], np.asarray(found.positions) @ NUMBERS, chance * np.exp(np.asarray(found.log_prob))
            )
    return P


@pytest.mark.parametrize("pool", ["constant", "noise"])
def test_exchanges_are_exact_and_without_their_correction_they_are_not(pool, x64):
    log_density, pi = target()
    weights = weights_of(pools()[pool])

    def right(state, weights, pair, new):
        return exchange_outcomes(state, log_density, weights, SIZES, pair, new)

    P = exchange_matrix(log_density, weights, right)
    np.testing.assert_allclose(P.sum(1), 1, atol=1e-10)
    assert np.abs(pi @ P - pi).max() < 1e-10
    assert np.sum(P - np.diag(np.diag(P))) > 0.1
    if pool == "noise":  # partners of unequal probabilities, sites of unequal numbers of states

        def naive(state, weights, pair, new):
            exact = right(state, weights, pair, new)
            value = jnp.where(exact.log_prob[1] > -jnp.inf, log_density(exact.positions[1]), -jnp.inf)
            return metropolis_outcomes(state, exact.positions[1], value)

        assert np.abs(pi @ exchange_matrix(log_density, weights, naive) - pi).max() > 1e-3


def test_masks_are_as_likely_as_their_negatives_and_shifts_are_exact(x64):
    log_density, pi = target()
    weights = weights_of(pools()["noise"])
    masks = np.asarray(
        jax.vmap(lambda k: scan_mask(k, weights, SIZES))(jax.random.split(jax.random.key(0), 20_000))
    )
    sizes = np.array(SIZES)
    codes, back = masks @ NUMBERS, np.mod(-masks, sizes) @ NUMBERS
    counts, reverse = (np.bincount(each, minlength=len(POSITIONS)) for each in (codes, back))
    assert np.all(np.abs(counts - reverse) < 5 * np.sqrt(counts + reverse + 1))
    assert np.all(counts[np.sum(POSITIONS != 0, 1) == 1] > 0)  # every single change is proposed
    assert counts[np.sum(POSITIONS != 0, 1) > 2].sum() == counts[0] == 0
    # with the masks' exact symmetry, the average over them leaves pi as it is
    chance = (counts + reverse) / (counts + reverse).sum()
    P = np.zeros((len(POSITIONS),) * 2)
    for row, x in enumerate(POSITIONS):
        state = DiscreteState(jnp.asarray(x), log_density(jnp.asarray(x)))
        for mask, share in zip(POSITIONS, chance, strict=True):
            if share > 0:
                found = mask_outcomes(state, log_density, jnp.asarray(mask), SIZES)
                np.add.at(
                    P[row], np.asarray(found.positions) @ NUMBERS, share * np.exp(np.asarray(found.log_prob))
                )
    assert np.abs(pi @ P - pi).max() < 1e-10


def test_chains_of_the_whole_move_have_the_law(x64):
    """20,000 chains from the law, after ten moves: every frequency within five standard errors."""
    log_density, pi = target()
    weights = weights_of(pools()["noise"])
    start = POSITIONS[np.random.default_rng(0).choice(len(POSITIONS), size=20_000, p=pi)]

    def chain(key, x):
        state = DiscreteState(x, log_density(x))
        step = lambda state, key: (scan_move(key, state, log_density, weights, SIZES)[0], None)  # noqa: E731
        return jax.lax.scan(step, state, jax.random.split(key, 10))[0].position

    ends = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(2), len(start)), jnp.asarray(start))
    counts = np.bincount(np.asarray(ends) @ NUMBERS, minlength=len(POSITIONS))
    assert np.mean(np.any(np.asarray(ends) != start, 1)) > 0.5
    assert np.all(np.abs(counts - len(start) * pi) < 5 * np.sqrt(len(start) * pi + 1))


def test_relabelling_is_exact_and_a_one_way_relabelling_is_not(x64):
    points = np.array(list(itertools.product(range(3), repeat=3)), np.int32)
    numbers = np.array([9, 3, 1])
    table = np.random.default_rng(0).normal(size=27)
    pi = np.exp(table) / np.exp(table).sum()

    def f(x):
        return jnp.asarray(table)[x.astype(jnp.int32) @ jnp.asarray(numbers)]

    def one_way(state, log_density, first, second):
        moved = jnp.where(state.position == first, second, state.position)
        return metropolis_outcomes(state, moved, log_density(moved))

    error = {}
    for name, outcomes in (("right", relabel_outcomes), ("wrong", one_way)):
        P = np.zeros((27, 27))
        for row, x in enumerate(points):
            state = DiscreteState(jnp.asarray(x), f(x))
            for first, second in ((0, 1), (0, 2), (1, 2)):
                found = outcomes(state, f, first, second)
                np.add.at(
                    P[row], np.asarray(found.positions) @ numbers, np.exp(np.asarray(found.log_prob)) / 3
                )
        error[name] = np.abs(pi @ P - pi).max()
    assert error["right"] < 1e-12
    assert error["wrong"] > 1e-3


def test_weights_name_uncertain_sites_and_copies():
    rng = np.random.default_rng(0)
    pool = np.zeros((400, 12), np.int32)
    pool[:, 3] = rng.integers(2, size=400)
    pool[:, 8] = 1 - pool[:, 3]
    weights = fit_scan(jnp.asarray(pool), (2,) * 12)
    share = np.diff(np.asarray(weights.site), prepend=0)
    assert share[[3, 8]].sum() > 0.75
    assert np.all(share > 0)
    assert weights.partners[3][np.argmax(weights.partner[3])] == 8
    assert isinstance(weights, ScanWeights)


def test_chains_that_name_labels_differently_do_not_look_uncertain():
    """Two chains with names exchanged; only site 2 moves within them."""
    first = np.tile([0, 1, 2, 0], (300, 1))
    first[:, 2] = np.random.default_rng(0).integers(3, size=300)
    pool = jnp.asarray(np.concatenate([first, (first + 1) % 3]), jnp.int32)
    share = np.diff(np.asarray(fit_scan(pool, (3,) * 4, 2).site), prepend=0)
    assert share[2] > 0.8
    mixed = np.diff(np.asarray(fit_scan(pool, (3,) * 4).site), prepend=0)
    assert mixed[2] < 0.4  # the twin: all as one chain
