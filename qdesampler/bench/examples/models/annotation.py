"""Models of annotation: who sorts items into classes, and how well. All follow NumPyro's `annotation.py`.

45 items, 7 positions by 5 annotators, the first of whom sees each item three times, 4 classes. The class c_i
of an item is summed out by hand:

    p(y_i) = sum_c pi_c prod_j p(y_ij | c, annotator of j)

The labels of the classes can be exchanged in all models but `mace`, so that draws are judged with the classes
in the order of the label that each makes likely.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

from qdesampler.bench.examples.example import Builder, Example, Summary, example, generator, latent

__all__ = ["EXAMPLES"]

ITEMS, CLASSES, ANNOTATORS = 45, 4, 5  # numbers of each, as in the original
POSITIONS = np.array([0, 0, 0, 1, 2, 3, 4])  # the annotator of each of the seven answers to an item


def _answers() -> dict[str, np.ndarray]:
    """Answers that are right four times in five, and else off by one class as a rule."""
    rng = generator(45)
    truth = rng.choice(CLASSES, ITEMS, p=[0.38, 0.4, 0.14, 0.08])
    distance = np.abs(np.subtract.outer(np.arange(CLASSES), np.arange(CLASSES)))
    chances = np.array([0.8, 0.17, 0.02, 0.01])[distance]
    chances /= chances.sum(axis=1, keepdims=True)
    draws = [[rng.choice(CLASSES, p=chances[c]) for _ in POSITIONS] for c in truth]
    return {"y": np.array(draws)}


def _factor(prevalence, log_answers):
    """Add `sum_i log sum_c pi_c exp(sum_j l_ijc)`; `log_answers` has shape (items, positions, classes)."""
    joint = jnp.log(prevalence) + jnp.sum(log_answers, axis=1)
    numpyro.factor("answers", jnp.sum(logsumexp(joint, axis=-1)))


def _in_order(site: str, logits: bool = False) -> Summary:
    """The prevalences and the class-wise rows of `site`, classes ordered by their expected label.

    Args:
        site: rows of probabilities, or of logits whose last is 0 and left out, `(..., class, label)`.
        logits: which of both.
    """

    def summary(draws):
        rows = np.asarray(draws[site], np.float64)
        shares = rows
        if logits:
            shares = np.exp(np.concatenate([rows, np.zeros((*rows.shape[:-1], 1))], axis=-1))
            shares /= shares.sum(axis=-1, keepdims=True)
        expected = shares @ np.arange(CLASSES)
        if expected.ndim > 3:
            expected = expected.mean(axis=2)  # over annotators
        order = np.argsort(expected, axis=-1)
        by_row = order.reshape(*order.shape[:2], *(1,) * (rows.ndim - 4), CLASSES, 1)
        return {
            "pi": np.take_along_axis(np.asarray(draws["pi"], np.float64), order, axis=-1),
            site: np.take_along_axis(rows, by_row, axis=-2),
        }

    return summary


def _prevalence():
    return latent("pi", dist.Dirichlet(jnp.ones(CLASSES)))


def _scales(name, distribution):
    with numpyro.plate(f"classes of {name}", CLASSES):
        return latent(name, distribution, CLASSES - 1)


def _with_last(logits):
    return jax.nn.log_softmax(jnp.pad(logits, [(0, 0)] * (jnp.ndim(logits) - 1) + [(0, 1)]), axis=-1)


def _of_annotators(log_rows, y):
    """Log probabilities of the answers, (items, positions, classes), from (annotators, classes, labels)."""
    by_answer = jnp.moveaxis(log_rows, -1, 0)  # label, annotator, class
    return by_answer[y, jnp.asarray(POSITIONS)]


def multinomial() -> Example:
    """`annotation.py`, "mn": one row of answer probabilities for each class."""

    def model(y):
        with numpyro.plate("class", CLASSES):
            zeta = latent("zeta", dist.Dirichlet(jnp.ones(CLASSES)))
        _factor(_prevalence(), jnp.log(zeta).T[y])

    return example("annotation-multinomial", model, _answers(), summary=_in_order("zeta"))


def dawid_skene() -> Example:
    """`annotation.py`, "ds": a matrix of answer probabilities for each annotator."""

    def model(y):
        with numpyro.plate("annotator", ANNOTATORS, dim=-2), numpyro.plate("class", CLASSES):
            beta = latent("beta", dist.Dirichlet(jnp.ones(CLASSES)))
        _factor(_prevalence(), _of_annotators(jnp.log(beta), y))

    return example("annotation-dawid-skene", model, _answers(), summary=_in_order("beta"))


def mace() -> Example:
    """`annotation.py`, "mace": an annotator either knows the class or spams, with answers of their own."""

    def model(y):
        with numpyro.plate("annotator", ANNOTATORS):
            epsilon = latent("epsilon", dist.Dirichlet(jnp.full(CLASSES, 10.0)))
            theta = latent("theta", dist.Beta(0.5, 0.5))
        knows = jnp.eye(CLASSES)[y]  # item, position, class: whether y is c
        spam = epsilon[POSITIONS[None, :], y]
        knowing = theta[POSITIONS][None, :, None]
        _factor(
            jnp.full(CLASSES, 1 / CLASSES), jnp.log(knowing * knows + (1 - knowing) * spam[..., None] + 1e-30)
        )

    return example("annotation-mace", model, _answers())


def hierarchical_dawid_skene() -> Example:
    """`annotation.py`, "hds": logits of the annotators about those of the class, not centred."""

    def model(y):
        zeta, omega = _scales("zeta", dist.Normal(0, 1)), _scales("Omega", dist.HalfNormal(1))
        with numpyro.plate("annotator", ANNOTATORS, dim=-2), numpyro.plate("class", CLASSES):
            standard = latent("beta_standard", dist.Normal(0, 1), CLASSES - 1)
        _factor(_prevalence(), _of_annotators(_with_last(zeta + omega * standard), y))

    return example("annotation-hierarchical", model, _answers(), summary=_in_order("zeta", logits=True))


def item_difficulty() -> Example:
    """`annotation.py`, "id": logits of each item about those of its class, not centred."""

    def model(y):
        eta, chi = _scales("eta", dist.Normal(0, 1)), _scales("Chi", dist.HalfNormal(1))
        with numpyro.plate("item", ITEMS):
            standard = latent("theta_standard", dist.Normal(0, 1), CLASSES - 1)
        theta = _with_last(eta + chi * standard[:, None, :])  # item, class, label
        answers = jnp.take_along_axis(theta, y[:, None, :], axis=-1)  # item, class, position
        _factor(_prevalence(), jnp.swapaxes(answers, 1, 2))

    return example("annotation-item-difficulty", model, _answers(), summary=_in_order("eta", logits=True))


def logistic_random_effects() -> Example:
    """`annotation.py`, "lre": logits of annotators and items, both about those of the class, not centred."""

    def model(y):
        zeta, omega = _scales("zeta", dist.Normal(0, 1)), _scales("Omega", dist.HalfNormal(1))
        chi = _scales("Chi", dist.HalfNormal(1))
        with numpyro.plate("annotator", ANNOTATORS, dim=-2), numpyro.plate("class", CLASSES):
            by_annotator = latent("beta_standard", dist.Normal(0, 1), CLASSES - 1)
        with numpyro.plate("item", ITEMS):
            by_item = latent("theta_standard", dist.Normal(0, 1), CLASSES - 1)
        beta = (zeta + omega * by_annotator)[jnp.asarray(POSITIONS)]  # position, class, label
        logits = _with_last(beta[None] - (chi * by_item[:, None, :])[:, None])  # item, position, class, label
        answers = jnp.take_along_axis(logits, y[:, :, None, None], axis=-1)[..., 0]
        _factor(_prevalence(), answers)

    return example("annotation-random-effects", model, _answers(), summary=_in_order("zeta", logits=True))


EXAMPLES: dict[str, Builder] = {
    "annotation-multinomial": multinomial,
    "annotation-dawid-skene": dawid_skene,
    "annotation-mace": mace,
    "annotation-hierarchical": hierarchical_dawid_skene,
    "annotation-item-difficulty": item_difficulty,
    "annotation-random-effects": logistic_random_effects,
}
