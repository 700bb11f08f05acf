"""Where in a model an error arose, and which of its data may be the cause.

JAX reports an error of a traced model without the site, and with shapes of arrays that have no name. The
model is run once more, outside any transformation, with draws of its prior.
"""

import inspect
import linecache
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpyro.handlers import seed, trace

__all__ = ["explain_failure"]

_LONGEST = 100  # characters of a line of the model that are quoted


def explain_failure(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Sentences that say at which site a model fails, with which shapes, and whether it was given text.

    Args:
        model: the NumPyro model.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        The sentences; an empty string if the model does not fail with draws of its prior.
    """
    recorded = trace(seed(model, jax.random.key(0)))
    try:
        sites = recorded.get_trace(*args, **kwargs)
    except Exception as error:  # whatever the model raises: the caller has the error already
        words = [_where(model, error), _shapes(recorded.trace, kwargs), _text(kwargs)]
    else:
        words = [_unlike_its_distribution(sites)]
    return " ".join(word for word in words if word)


def _where(model: Callable[..., Any], error: Exception) -> str:
    """The line of the model's own file that raised the error."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(model))
    except TypeError:  # a callable object
        return ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if file is None or not lines or lines[-1] is None:
        return ""
    code = linecache.getline(file, lines[-1]).strip()
    return f"It fails in line {lines[-1]} of {file}: {code[:_LONGEST]}{' ...' * (len(code) > _LONGEST)}."


def _shapes(sites: Mapping[str, Any], kwargs: Mapping[str, Any]) -> str:
    """The shapes of the data, and of the sites that the model had reached."""
    data = {name: value for name, value in kwargs.items() if isinstance(value, np.ndarray | jax.Array)}
    drawn = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
    parts = [
        f"{words} {', '.join(f'{name} {np.shape(value)}' for name, value in values.items())}"
        for words, values in (("the data", data), ("the sites", drawn))
        if values
    ]
    return f"Shapes so far: {'; '.join(parts)}." if parts else ""


def _text(kwargs: Mapping[str, Any]) -> str:
    """What to do with a field of labels."""
    fields = [
        name
        for name, value in kwargs.items()
        if isinstance(value, str)
        or (isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value))
    ]
    if not fields:
        return ""
    name = fields[0]
    number = _is_number(kwargs[name])
    old = f'data["{name}"]'
    change = f"np.array({old}, float)" if number else f"np.unique({old}, return_inverse=True)[1]"
    return (
        f"The data hold text in {', '.join(fields)}, and a model computes with numbers: give "
        f"{'numbers' if number else 'the index of each label'}, for instance by this function in model.py, "
        f'after "import numpy as np": def prepare(data): return {{**data, "{name}": {change}}}'
    )


def _is_number(value: str | Sequence[str]) -> bool:
    try:
        np.array(value, float)
    except ValueError:
        return False
    return True


def _unlike_its_distribution(sites: Mapping[str, Any]) -> str:
    """The first site whose value does not fit the shape of its distribution."""
    for name, site in sites.items():
        if site["type"] != "sample":
            continue
        try:
            jax.eval_shape(site["fn"].log_prob, site["value"])
        except Exception:  # of the distribution, in its own words
            batch, event = site["fn"].batch_shape, site["fn"].event_shape
            given = "observed values" if site["is_observed"] else "a value"
            return (
                f"At the site {name} the distribution has the shape {(*batch, *event)}, and it has {given} "
                f"of the shape {np.shape(site['value'])}: make them equal, or broadcastable."
            )
    return ""
