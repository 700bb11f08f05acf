"""Checks of the driver's arguments; each message says what was given, what was expected, and what to do."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpyro.infer.mcmc import MCMCKernel

__all__ = ["as_callbacks", "as_folder", "check_field_names", "check_positive", "check_sampler"]


def check_positive(**given: Any) -> None:
    """Refuse values that are not positive integers.

    Raises:
        ValueError: the message names the argument.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a positive integer.")


def check_sampler(sampler: Any) -> None:
    """Refuse anything but a kernel.

    Raises:
        TypeError: for a model, a class, or any other object.
    """
    if isinstance(sampler, MCMCKernel):
        return
    what = f"the class {sampler.__name__}" if isinstance(sampler, type) else f"a {type(sampler).__name__}"
    raise TypeError(f"MCMC runs a kernel made for a model, such as QDE(model) or NUTS(model); got {what}.")


def as_callbacks(callbacks: Any) -> tuple[Callable, ...]:
    """The callbacks as a tuple of functions.

    Raises:
        TypeError: `callbacks` is not a list, or an entry is not a function.
    """
    if callable(callbacks) or not hasattr(callbacks, "__iter__"):
        raise TypeError(f"callbacks is {callbacks!r}; expected a list of functions of a Progress.")
    wrong = [callback for callback in callbacks if not callable(callback)]
    if wrong:
        raise TypeError(f"callbacks holds {wrong[0]!r}; expected functions of a Progress.")
    return tuple(callbacks)


def as_folder(name: str, path: Any) -> Path:
    """The path of a folder.

    Raises:
        TypeError: `path` is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} is {path!r}; expected the path of a folder.")
    return Path(path)


def check_field_names(extra_fields: Any) -> None:
    """Refuse anything but a list of names.

    Raises:
        ValueError: for a single name, or an entry that is not a string.
    """
    if isinstance(extra_fields, str) or not all(isinstance(name, str) for name in extra_fields):
        raise ValueError(f"extra_fields is {extra_fields!r}; expected a list or tuple of names.")
