"""Parameters and results of public functions and methods are annotated, as `py.typed` promises."""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import qdesampler

ROOMS = (
    "backends",
    "densities",
    "diagnostics",
    "driver",
    "equation",
    "infer",
    "kernels",
    "numerics",
    "solvers",
)


def callables(face: Any) -> Iterator[tuple[str, Any]]:
    """The public functions of a face, and the methods that its classes define."""
    for name in face.__all__:
        value = getattr(face, name)
        if not str(getattr(value, "__module__", "")).startswith("qdesampler"):
            continue
        if inspect.isfunction(value):
            yield name, value
        if inspect.isclass(value):
            for base in value.__mro__:
                if base.__module__.startswith("qdesampler"):
                    for method, function in vars(base).items():
                        own = inspect.isfunction(function) and function.__module__.startswith("qdesampler")
                        if own and (method == "__init__" or method[0] != "_"):
                            yield f"{base.__name__}.{method}", function


def missing(function: Any) -> list[str]:
    """The parameters without an annotation, and "return" if the result has none."""
    signature = inspect.signature(function)
    empty = inspect.Parameter.empty
    names = [name for name, p in signature.parameters.items() if p.annotation is empty and name != "self"]
    if signature.return_annotation is empty and function.__name__ != "__init__":
        names.append("return")
    return names


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_public_signatures_are_annotated(room):
    face = importlib.import_module(f"qdesampler.{room}") if room else qdesampler
    if not hasattr(face, "__all__"):
        pytest.skip("a package without public names")
    found = {name: missing(function) for name, function in callables(face)}
    assert found
    assert {name: names for name, names in found.items() if names} == {}


def test_what_is_missing_is_seen():
    def half(a: int, b, *c: int, **d) -> None:
        del a, b, c, d

    assert missing(half) == ["b", "d"]
    assert missing(lambda x: x) == ["x", "return"]
