"""Where a model fails: its line, its shapes, its text data; nothing about a model that is sound."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.infer.model.failures import explain_failure

THREE = np.ones(3)


def product(x, y):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([4]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ a, 1), obs=y)


def sizes(x, y):
    numpyro.sample("first", dist.Normal(0, 1))
    numpyro.sample("second", dist.Normal(x, 1), obs=y)


def event(x, y):
    numpyro.sample("whole", dist.MultivariateNormal(jnp.zeros(x.shape[0]), jnp.eye(x.shape[0])), obs=y)


def factor(x, y):
    a = numpyro.sample("a", dist.Normal(0, 1))
    numpyro.factor("f", a * x)
    numpyro.deterministic("sum", a * x + y)


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (product, {"x": np.ones((3, 2)), "y": THREE}, ["x @ a", "the data x (3, 2), y (3,)", "sites a (4,)"]),
        (sizes, {"x": np.ones(4), "y": THREE}, ["site second", "the shape (4,)", "of the shape (3,)"]),
        (event, {"x": np.ones(4), "y": THREE}, ["site whole", "the shape (4,)", "of the shape (3,)"]),
        (factor, {"x": np.ones(4), "y": THREE}, ['"sum", a * x + y', "the data x (4,), y (3,)"]),
        (product, {"x": ["b", "a", "b"], "y": THREE}, ['"x": np.unique(data["x"], return_inverse=True)[1]']),
        (product, {"x": ["1", "2", "3"], "y": THREE}, ['"x": np.array(data["x"], float)']),
    ],
)
def test_a_failure_is_placed(model, data, words):
    found = explain_failure(model, (), data)
    assert all(word in found for word in words), found


def test_a_sound_model_has_nothing_to_explain():
    assert explain_failure(sizes, (), {"x": np.ones(3), "y": THREE}) == ""
    assert explain_failure(sizes, (), {"x": jnp.ones((2, 3)), "y": THREE}) == ""  # broadcastable


def test_the_remedy_for_labels_is_python_that_works():
    found = explain_failure(product, (), {"x": ["b", "a", "b"], "y": THREE})
    source = found[found.index("def prepare") :]
    scope = {"np": np}
    exec(source, scope)
    prepared = scope["prepare"]({"x": ["b", "a", "b"], "y": THREE})
    assert prepared["x"].tolist() == [1, 0, 1]
    assert prepared["y"] is THREE
