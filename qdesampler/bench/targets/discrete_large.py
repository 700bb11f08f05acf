r"""Posteriors over hundreds to thousands of discrete latents, with marginals that are known otherwise.

* `wide_spike_and_slab`: 200 predictors in blocks of near copies, coefficients integrated out; truth by a long
  run that knows how all probabilities change with one predictor.
* `ising_image`: a noisy image of 64 x 64 spins with an Ising prior; truth by averages of heat-bath sweeps.
* `mixture_labels`: labels of 500 points of a mixture of four Gaussians, means and weights integrated out;
  by symmetry every label has the marginal 1/4. What does not depend on names of labels, whether a point has
  the label of the next one, by a long run of Gibbs sampling with running sums.
* `network_structure`: arrows between ten variables, acyclic; exact, by sums over sets of variables.
* `change_points`: where the mean of a series jumps,
  levels integrated out; exact, by forward and backward sums.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import logsumexp

from qdesampler.backends import GibbsSurrogate, IsingProblem
from qdesampler.bench.targets.discrete import SpikeAndSlab, spike_and_slab_data

__all__ = ["LARGE_PROBLEMS", "LargeProblem", "inclusion_by_flips"]


class LargeProblem(NamedTuple):
    """A model with one discrete site "z", and what is known of it.

    Attributes:
        model: NumPyro model without arguments.
        truth: marginals: of bits `P(z_i = 1)`, shape `(n,)`; of labels `P(z_i = c)`, shape `(n, q)`.
        num_states: `q`.
        start: values of "z" for chains to start from, or None for draws from the prior.
        surrogate: the posterior itself as an Ising problem, where it is one; else None.
        same: `P(z_i = z_{i + 1})`, shape `(n - 1,)`, where labels have no meaning of their own; else None.
    """

    model: Callable
    truth: np.ndarray
    num_states: int = 2
    start: np.ndarray | None = None
    surrogate: IsingProblem | None = None
    same: np.ndarray | None = None


def _bits(log_likelihood: Callable, n: int, probability: float) -> Callable:
    def model():
        with numpyro.plate("sites", n):
            z = numpyro.sample("z", dist.Bernoulli(probability))
        numpyro.factor("evidence", log_likelihood(z))

    return model


def wide_spike_and_slab(seed: int, p: int = 200) -> LargeProblem:
    """Collapsed spike and slab with `p` predictors in blocks of four near copies (correlation 0.98)."""
    data = spike_and_slab_data(p, seed=seed, active=6)
    rows = len(data.y)

    def likelihood(gamma):
        # by Sylvester's identity the determinant of the p x p matrix is that of a rows x rows one
        scaled = data.slab * data.x * gamma
        factor = jnp.linalg.cholesky(jnp.eye(rows) + scaled @ scaled.T)
        half = jax.scipy.linalg.solve_triangular(factor, data.y, lower=True)
        return -jnp.sum(jnp.log(jnp.diagonal(factor))) - (1 + rows / 2) * jnp.log1p(half @ half / 2)

    return LargeProblem(_bits(likelihood, p, data.inclusion), inclusion_by_flips(data, seed))


def inclusion_by_flips(
    data: SpikeAndSlab, seed: int, steps: int = 30_000, chains: int = 32, fresh: int = 500
) -> np.ndarray:
    r"""Return inclusion probabilities, shape `(p,)`, by a long run in continuous time, in double precision.

    Predictor `i` changes at the rate of heat-bath updates, `r_i = 1 / (1 + exp(-d_i))` with `d_i` the change
    of the log density. A state lasts `1 / sum_i r_i` on average, and its probabilities given the others are
    averaged with these weights. With `K = 1 + slab^2 sum_on x x'` all `p` changes follow from `x_i' K^-1 x_i`
    and `x_i' K^-1 y`, which are kept up to date (Sherman, Morrison 1950). The first tenth is left out.

    Args:
        data: the regression.
        seed: of the run.
        steps: changes of each chain.
        chains: that run.
        fresh: steps after which `K^-1` is computed anew.
    """
    rng = np.random.default_rng(seed)
    x, y = data.slab * data.x.astype(float), data.y.astype(float)
    rows, p = x.shape
    odds, power = np.log(data.inclusion) - np.log1p(-data.inclusion), 1 + rows / 2
    on, each = np.zeros((chains, p), bool), np.arange(chains)
    totals, time = np.zeros((chains, p)), np.zeros((chains, 1))
    inverse = K_y = square = cross = np.empty(0)
    for step in range(steps):
        if step % fresh == 0:
            scaled = x * on[:, None]
            inverse = np.linalg.inv(np.eye(rows) + scaled @ scaled.mT)
            K_y, square = inverse @ y, np.einsum("ri,cri->ci", x, inverse @ x)
        cross = K_y @ x
        sign = np.where(on, -1.0, 1.0)
        grown = 1 + sign * square  # the determinant after a change, in units of that before
        quadratic = (K_y @ y)[:, None]
        there = quadratic - sign * cross**2 / grown
        change = sign * odds - np.log(grown) / 2 - power * (np.log1p(there / 2) - np.log1p(quadratic / 2))
        rates = 1 / (1 + np.exp(-change))
        sums = np.cumsum(rates, 1)
        if step >= steps // 10:
            totals += np.where(on, 1 - rates, rates) / sums[:, -1:]
            time += 1 / sums[:, -1:]
        i = np.sum(sums <= rng.random((chains, 1)) * sums[:, -1:], 1)
        scale = sign[each, i] / grown[each, i]
        u = np.matvec(inverse, x.T[i])
        inverse = inverse - scale[:, None, None] * u[:, :, None] * u[:, None]
        K_y, square = K_y - (scale * cross[each, i])[:, None] * u, square - scale[:, None] * (u @ x) ** 2
        on[each, i] = ~on[each, i]
    return np.sum(totals, 0) / np.sum(time)


def ising_image(seed: int, side: int = 64, coupling: float = 0.35, noise: float = 1.2) -> LargeProblem:
    """A picture of discs, `y = s + noise`, under the prior `exp(coupling sum s s')`."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 2), -1)
    centres, radii = rng.uniform(0, side, size=(6, 2)), rng.uniform(side / 12, side / 5, size=6)
    inside = np.any(np.linalg.norm(grid[:, :, None] - centres, axis=-1) < radii, -1)
    y = (np.where(inside, 1.0, -1.0) + noise * rng.normal(size=(side, side))).ravel()
    cells = np.arange(side**2).reshape(side, side)
    edges = np.concatenate(
        [
            np.stack([cells[:-1].ravel(), cells[1:].ravel()], -1),
            np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()], -1),
        ]
    )
    problem = IsingProblem.from_edges(-y / noise**2, edges, np.full(len(edges), -coupling))

    def likelihood(z):
        s = 2.0 * z - 1.0
        return jnp.asarray(y / noise**2) @ s + coupling * jnp.sum(s[edges[:, 0]] * s[edges[:, 1]])

    total, states = np.zeros(side**2), None
    rounds, sweeps = 40, 10
    near = np.zeros((side**2, 4), int) + side**2
    for k, shift in enumerate((1, -1, side, -side)):
        pairs = edges[edges[:, 1] - edges[:, 0] == abs(shift)]
        near[pairs[:, 0 if shift > 0 else 1], k] = pairs[:, 1 if shift > 0 else 0]
    for k in range(rounds + 4):  # the first rounds forget the start
        key = jax.random.key(1000 * seed + k)
        states = GibbsSurrogate(sweeps).sample(problem, key=key, num_reads=100, initial_states=states).states
        if k >= 4:
            padded = np.pad(np.asarray(states), ((0, 0), (0, 1))).astype(float)
            total += (1 / (1 + np.exp(-2 * (y / noise**2 + coupling * padded[:, near].sum(-1))))).mean(0)
    return LargeProblem(_bits(likelihood, side**2, 0.5), total / rounds, surrogate=problem)


def mixture_points(seed: int, n: int = 500, k: int = 4) -> tuple[jax.Array, int, float]:
    """Return points `(n, 2)`, the number of labels and the prior variance of a mean."""
    rng = np.random.default_rng(seed)
    centres = 2.0 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)
    return jnp.asarray(centres[rng.integers(k, size=n)] + rng.normal(size=(n, 2)), float), k, 9.0


def mixture_labels(seed: int, n: int = 500, k: int = 4) -> LargeProblem:
    """Labels of a mixture of `k` planar Gaussians of known width, uniform weights integrated out."""
    y, k, width = mixture_points(seed, n, k)
    labels: Any = dist.Categorical(probs=jnp.ones(k) / k)

    def model():
        with numpyro.plate("points", n):
            z = numpyro.sample("z", labels)
        member = jax.nn.one_hot(z, k)
        counts, sums = member.sum(0), member.T @ y
        evidence = jnp.sum(sums**2, 1) * width / (2 * (1 + width * counts)) - jnp.log1p(width * counts)
        weights = jax.scipy.special.gammaln(counts + 1.0)
        numpyro.factor("evidence", jnp.sum(evidence + weights) + n * jnp.log(float(k)))

    return LargeProblem(model, np.full((n, k), 1 / k), k, same=_same_label(y, k, width, seed))


def _same_label(
    y: jax.Array, k: int, width: float, seed: int, sweeps: int = 1000, chains: int = 8
) -> np.ndarray:
    """Return how often consecutive points share a label; Gibbs sampling with counts and sums kept up to date.

    The first fifth of the sweeps is left out. Labels do not change places, which changes nothing here.
    """
    n = len(y)

    def evidence(count, total):
        square = jnp.sum(total**2, -1) * width / (2 * (1 + width * count))
        return square - jnp.log1p(width * count) + jax.scipy.special.gammaln(count + 1.0)

    def update(carry, now):
        z, counts, sums = carry
        i, key = now
        own = jax.nn.one_hot(z[i], k)
        counts, sums = counts - own, sums - own[:, None] * y[i]
        odds = evidence(counts + 1, sums + y[i]) - evidence(counts, sums)
        new = jax.nn.one_hot(jax.random.categorical(key, odds), k)
        z = z.at[i].set(jnp.argmax(new))
        return (z, counts + new, sums + new[:, None] * y[i]), None

    def sweep(carry, key):
        state, same = carry
        state, _ = jax.lax.scan(update, state, (jnp.arange(n), jax.random.split(key, n)))
        return (state, same + (state[0][1:] == state[0][:-1])), None

    def chain(key):
        key_start, *keys = jax.random.split(key, 3)
        z = jax.random.randint(key_start, (n,), 0, k)
        member = jax.nn.one_hot(z, k)
        carry = ((z, member.sum(0), member.T @ y), jnp.zeros(n - 1))
        (state, _), _ = jax.lax.scan(sweep, carry, jax.random.split(keys[0], sweeps // 5))
        carry = (state, jnp.zeros(n - 1))
        (_, same), _ = jax.lax.scan(sweep, carry, jax.random.split(keys[1], sweeps))
        return same / sweeps

    return np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(seed), chains))).mean(0)


def network_structure(seed: int, nodes: int = 10, rows: int = 60) -> LargeProblem:
    """Arrows of a Gaussian network, `z = 1` for each ordered pair; a node regressed on its parents."""
    odds = np.log(0.2 / 0.8)
    rng = np.random.default_rng(seed)
    x = np.zeros((rows, nodes))
    for node in range(nodes):
        x[:, node] = x[:, :node] @ (rng.normal(size=node) * (rng.random(node) < 0.6)) + rng.normal(size=rows)
    x -= x.mean(0)
    scores = np.zeros((nodes, 2**nodes))
    for node in range(nodes):
        for code in range(2**nodes):
            parents = [j for j in range(nodes) if code >> j & 1 and j != node]
            K = np.eye(rows) + x[:, parents] @ x[:, parents].T
            quadratic = x[:, node] @ np.linalg.solve(K, x[:, node])
            scores[node, code] = -np.linalg.slogdet(K)[1] / 2 - (1 + rows / 2) * np.log1p(quadratic / 2)
    table, powers = jnp.asarray(scores), 2 ** np.arange(nodes)
    source, target = np.nonzero(~np.eye(nodes, dtype=bool))

    def likelihood(z):
        arrows = jnp.zeros((nodes, nodes)).at[source, target].set(z.astype(float))
        reach = jnp.linalg.matrix_power(jnp.eye(nodes) + arrows, nodes)
        acyclic = jnp.trace(reach) < nodes + 0.5
        codes = (powers @ arrows).astype(int)
        return jnp.where(acyclic, jnp.sum(table[np.arange(nodes), codes]), -jnp.inf)

    sizes = np.array([bin(code).count("1") for code in range(2**nodes)])
    truth = _arrow_probabilities(scores + odds * sizes)[source, target]
    return LargeProblem(_bits(likelihood, len(source), 0.2), truth, start=np.zeros(len(source), np.int32))


def _arrow_probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the probability of each arrow `i -> j` over all acyclic graphs, shape `(nodes, nodes)`.

    By sums over sets of nodes: with `T` the nodes of `S` without a child and `A_j(U)` the weight of node `j`
    over all its sets of parents within `U`, inclusion and exclusion give

        Z(S) = sum_{T in S, not empty} (-1)^(|T| + 1) Z(S - T) prod_{j in T} A_j(S - T)

    (Tian, He, "Computing posterior probabilities of structural features in Bayesian networks", UAI 2009). An
    arrow leaves only the sets of parents of `j` that hold `i`.

    Args:
        scores: log weight of each set of parents as a binary code, shape `(nodes, 2^nodes)`.
    """
    nodes = len(scores)
    codes = np.arange(2**nodes)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights[(codes >> np.arange(nodes)[:, None] & 1) == 1] = 0.0  # no node is its own parent
    arrows = [(i, j) for i in range(nodes) for j in range(nodes) if i != j]
    # column 0 sums over all graphs, the others over those with one arrow
    table = np.repeat(weights[..., None], len(arrows) + 1, -1)
    for k, (i, j) in enumerate(arrows, 1):
        table[j, (codes >> i & 1) == 0, k] = 0.0
    for bit in range(nodes):  # sums over subsets
        upper = codes[codes >> bit & 1 == 1]
        table[:, upper] += table[:, upper ^ (1 << bit)]
    Z = np.zeros((2**nodes, len(arrows) + 1))
    Z[0] = 1.0
    for S in range(1, 2**nodes):
        T = S
        while T:
            members = [j for j in range(nodes) if T >> j & 1]
            sign = 1 if len(members) % 2 else -1
            Z[S] += sign * Z[S ^ T] * np.prod(table[members, S ^ T], 0)
            T = (T - 1) & S
    found = np.zeros((nodes, nodes))
    for k, (i, j) in enumerate(arrows, 1):
        found[i, j] = Z[-1, k] / Z[-1, 0]
    return found


def change_point_series(seed: int, n: int = 200, jumps: int = 6) -> tuple[np.ndarray, float, float]:
    """Return a series, the prior probability of a change and the prior variance of a level."""
    rng = np.random.default_rng(seed)
    places = np.sort(rng.choice(np.arange(5, n - 5), jumps, replace=False))
    y = 1.2 * rng.normal(size=jumps + 1)[np.searchsorted(places, np.arange(n), side="right")] + rng.normal(
        size=n
    )
    return y, 0.03, 4.0


def change_points(seed: int, n: int = 200, jumps: int = 6) -> LargeProblem:
    """Jumps of the level of a series of unit noise, `z_t = 1` if a segment ends after point `t`."""
    y, probability, width = change_point_series(seed, n, jumps)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    first, last = np.meshgrid(np.arange(n), np.arange(1, n + 1), indexing="ij")
    size = np.maximum(last - first, 1)
    L = (sums[last] - sums[first]) ** 2 * width / (2 * (1 + width * size)) - np.log1p(width * size) / 2
    table = jnp.asarray(L)

    def likelihood(z):
        ends = jnp.append(z.astype(bool), True)
        marks = jnp.where(ends, jnp.arange(1, n + 1), 0)
        begins = jnp.append(0, jax.lax.cummax(marks)[:-1])
        return jnp.sum(jnp.where(ends, table[begins, jnp.arange(n)], 0.0))

    stop, go = np.log(probability), np.log1p(-probability)
    left, right = np.full(n + 1, -np.inf), np.full(n + 1, -np.inf)
    left[0] = right[n] = 0.0
    for b in range(1, n + 1):  # left[b]: all before b, with a segment that ends at b
        a = np.arange(b)
        left[b] = np.logaddexp.reduce(left[a] + L[a, b - 1] + (b - 1 - a) * go) + (stop if b < n else 0.0)
    for a in range(n - 1, -1, -1):
        b = np.arange(a + 1, n + 1)
        right[a] = logsumexp(right[b] + L[a, b - 1] + (b - 1 - a) * go + np.where(b < n, stop, 0.0))
    truth = np.exp(left[1:n] + right[1:n] - left[n])
    return LargeProblem(_bits(likelihood, n - 1, probability), truth)


# by the number of the data set and, where another is wanted, the size
LARGE_PROBLEMS: dict[str, Callable[..., LargeProblem]] = {
    "change points": change_points,
    "network": network_structure,
    "mixture": mixture_labels,
    "image": ising_image,
    "spike and slab": wide_spike_and_slab,
}
