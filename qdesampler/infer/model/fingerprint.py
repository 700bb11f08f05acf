"""The identity of a run in lines that can be compared: model code, data, kernel settings, versions.

Values of the data are not written, only their SHA-256; objects are named by their type.
"""

import hashlib
import inspect
import json
import platform
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.mcmc import MCMCKernel

__all__ = [
    "data_lines",
    "describe",
    "differences",
    "is_typed_key",
    "kernel_lines",
    "run_name",
    "version_lines",
]


def kernel_lines(kernel: MCMCKernel) -> dict[str, str]:
    """Lines for the kernel, its model, and each constructor argument that the kernel still holds.

    Args:
        kernel: a kernel that has not been initialised (initialising one changes what it holds).
    """
    lines = {"kernel": f"{type(kernel).__module__}.{type(kernel).__qualname__}"}
    for name in inspect.signature(type(kernel).__init__).parameters:
        for attribute in (f"_{name}", name):
            if attribute in vars(kernel):
                lines[f"kernel.{name}"] = describe(vars(kernel)[attribute])
                break
    for name in ("model", "potential_fn"):
        function = getattr(kernel, name, None)
        if callable(function):
            lines[name] = describe(function)
    return lines


def data_lines(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """A line for each leaf of the model's arguments."""
    leaves, _ = jax.tree.flatten_with_path((tuple(args), dict(kwargs)), is_leaf=lambda x: x is None)
    return {f"data{jax.tree_util.keystr(path[1:])}": describe(leaf) for path, leaf in leaves}


def version_lines() -> dict[str, str]:
    """A line for each version that can change the last bits of a draw."""
    lines = {
        f"version of {name}": version(name) for name in ("jax", "jaxlib", "numpyro", "qdesampler", "numpy")
    }
    lines["version of Python"] = platform.python_version()
    device = jax.devices()[0]
    lines["device"] = f"{device.platform}, {device.device_kind}"
    lines["64-bit numbers"] = str(bool(jax.config.jax_enable_x64))
    return lines


def differences(stored: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """One sentence for each line that differs."""
    return [
        f"{name}: the checkpoint has {stored.get(name, 'none')}, this run has {given.get(name, 'none')}"
        for name in sorted({*stored, *given})
        if stored.get(name) != given.get(name)
    ]


def run_name(header: Mapping[str, Any]) -> str:
    """A short name for a run, from all that its draws depend on; `header` holds JSON values."""
    return _hash(json.dumps(header, sort_keys=True).encode())


def describe(value: Any) -> str:
    """A short text that is the same for the same value, in every process.

    Numbers, names and short containers of them in full; arrays by type, shape and hash; functions by their
    name and the hash of their code, defaults and closure; other objects by their type.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, np.generic)):
        return repr(value)
    if isinstance(value, jax.Array) and is_typed_key(value):
        value = jax.random.key_data(value)
    if isinstance(value, (np.ndarray, jax.Array)):
        array = np.asarray(value, order="C")
        return f"{array.dtype.name}{list(array.shape)} {_hash(array.tobytes())}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(describe, value))})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(value[key])}" for key in sorted(value, key=repr)) + "}"
    if isinstance(value, partial):
        return f"partial({describe(value.func)}, {describe(value.args)}, {describe(value.keywords)})"
    if isinstance(value, types.MethodType):
        return f"{type(value.__self__).__qualname__}.{describe(value.__func__)}"
    if isinstance(value, types.FunctionType):
        return f"{value.__qualname__} {_hash(_function(value, ()).encode())}"
    if callable(value) and hasattr(value, "__wrapped__"):
        return describe(value.__wrapped__)
    return f"{type(value).__module__}.{type(value).__qualname__}"


def is_typed_key(leaf: Any) -> bool:
    """Whether these are keys of `jax.random.key`."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _function(function: Callable, seen: tuple[Any, ...]) -> str:
    parts = [_code(function.__code__), describe(function.__defaults__), describe(function.__kwdefaults__)]
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # a name without a value so far
            continue
        if isinstance(content, types.FunctionType):
            parts.append("recursive" if content in seen else _function(content, (*seen, function)))
        else:
            parts.append(describe(content))
    return "|".join(parts)


def _code(code: types.CodeType) -> str:
    constants = [
        _code(constant) if isinstance(constant, types.CodeType) else repr(constant)
        for constant in code.co_consts
        if not isinstance(constant, frozenset)  # their order differs between processes
    ]
    sets = [sorted(map(repr, constant)) for constant in code.co_consts if isinstance(constant, frozenset)]
    return f"{code.co_code.hex()}{constants}{sets}{code.co_names}{code.co_varnames}{code.co_freevars}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
