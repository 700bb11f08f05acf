"""Hidden Markov models, the states summed out by the forward recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from numpyro.distributions.util import clamp_probs

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES"]


def _forward(log_start, log_transition, log_emission):
    """Log probability of the emissions; `log_emission` has shape `(time, states)`."""

    def step(before, now):
        return logsumexp(before[:, None] + log_transition, axis=0) + now, None

    last, _ = jax.lax.scan(step, log_start + log_emission[0], log_emission[1:])
    return logsumexp(last)


def _semi_supervised(name: str, transition_prior: float) -> Example:
    """Three states and 12 words, `6 + 33` dimensions: 60 steps with known states, 200 without."""
    states, words = 3, 12
    rng = generator(39)
    transition = rng.dirichlet(np.full(states, max(transition_prior, 0.5)), states)
    emission = rng.dirichlet(np.full(words, 0.1), states)

    def chain(length):
        path = [int(rng.integers(states))]
        for _ in range(length - 1):
            path.append(rng.choice(states, p=transition[path[-1]]))
        return np.array(path), np.array([rng.choice(words, p=emission[c]) for c in path])

    known, known_words = chain(60)
    _, free_words = chain(200)

    def model(known, known_words, free_words):
        by_state = dist.Dirichlet(jnp.full((states, states), transition_prior)).to_event(1)
        p = latent("transition_prob", by_state)
        q = latent("emission_prob", dist.Dirichlet(jnp.full((states, words), 0.1)).to_event(1))
        numpyro.sample("known", dist.CategoricalProbs(p[known[:-1]]).to_event(1), obs=known[1:])
        numpyro.sample("known_words", dist.CategoricalProbs(q[known]).to_event(1), obs=known_words)
        log_q = jnp.log(clamp_probs(q))
        emitted = log_q[:, free_words].T
        numpyro.factor("free", _forward(jnp.zeros(states), jnp.log(clamp_probs(p)), emitted))

    data = {"known": known, "known_words": known_words, "free_words": free_words}
    return example(name, model, data, warmup=500)


def semi_supervised() -> Example:
    """`hmm.py`: transitions `Dirichlet(1)`, emissions `Dirichlet(.1)`, whose logarithms have long tails."""
    return _semi_supervised("hmm", 1.0)


def sparse_transitions() -> Example:
    """`hmm.py` with `Dirichlet(.1)` for the transitions too."""
    return _semi_supervised("hmm-sparse", 0.1)


def chorales() -> Example:
    """`hmm_enum.py`, model 1, small: three states, ten sequences of 20 steps of six binary tones.

    The states can be exchanged, but for the first, in which all sequences start; draws are judged with the
    others in the order of the number of tones that they make likely.
    """
    states, tones, sequences, steps = 3, 6, 10, 20
    rng = generator(10)
    transition = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7]])
    emission = np.array(
        [[0.9, 0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.8, 0.8, 0.1, 0.1, 0.7], [0.05, 0.1, 0.1, 0.1, 0.7, 0.1]]
    )
    y = np.zeros((sequences, steps, tones), int)
    for sequence in y:
        state = 0
        for t in range(steps):
            state = rng.choice(states, p=transition[state])
            sequence[t] = rng.random(tones) < emission[state]

    def model(y):
        prior = dist.Dirichlet(0.9 * jnp.eye(states) + 0.1).to_event(1)
        p = jnp.log(clamp_probs(latent("probs_x", prior)))
        q = latent("probs_y", dist.Beta(0.1, 0.9), states, tones)
        q = clamp_probs(q)
        emitted = y @ jnp.log(q).T + (1 - y) @ jnp.log1p(-q).T  # sequence, time, state
        numpyro.factor("y", jnp.sum(jax.vmap(lambda e: _forward(p[0], p, e))(emitted)))

    def summary(draws):
        x, q = (np.asarray(draws[site], np.float64) for site in ("probs_x", "probs_y"))
        rest = 1 + np.argsort(q[..., 1:, :].sum(axis=-1), axis=-1)
        order = np.concatenate([np.zeros((*rest.shape[:-1], 1), int), rest], axis=-1)
        x = np.take_along_axis(np.take_along_axis(x, order[..., None], -2), order[..., None, :], -1)
        return {"probs_x": x, "probs_y": np.take_along_axis(q, order[..., None], -2)}

    return example("hmm-tones", model, {"y": y}, summary=summary, warmup=500)


EXAMPLES: dict[str, Builder] = {
    "hmm": semi_supervised,
    "hmm-sparse": sparse_transitions,
    "hmm-tones": chorales,
}
