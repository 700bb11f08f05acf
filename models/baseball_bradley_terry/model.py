"""Baseball's American League East of 1987: strengths of teams from their games, by Bradley and Terry."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """Wins of the first team of each pair, and the games of the pair."""
    wins = data["wins"]
    first, second = np.triu_indices(len(wins), 1)
    pair_wins = wins[first, second]
    return {"first": first, "second": second, "won": pair_wins, "games": pair_wins + wins[second, first]}


def model(first, second, won, games):
    """The first team beats the second with probability ``logit^-1(strength_first - strength_second)``.

    Args:
        first: one team of each pair, from 0, shape ``(pairs,)``.
        second: the other team, shape ``(pairs,)``.
        won: games that the first team won, shape ``(pairs,)``; None draws from the prior predictive.
        games: shape ``(pairs,)``.
    """
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("team", 7):
        z = numpyro.sample("z", dist.Normal(0, 1))
        strength = jnp.asarray(numpyro.deterministic("strength", tau * z))
    with numpyro.plate("pair", len(first)):
        numpyro.sample("won", dist.Binomial(games, logits=strength[first] - strength[second]), obs=won)
