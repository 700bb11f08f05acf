"""Models by path: a folder or one Python file becomes a NumPyro model with its data.

A model is written once, as a folder that names no package::

    eight_schools/
        model.py         def model(sigma, y): ...        optional: def prepare(data): ...
        data.json        {"sigma": [...], "y": [...]}    optional
        reference.json   known posterior moments         optional (`reference_values.py`)
        README.md        the statement as mathematics, source and licence

and `load_model` turns the folder into a `ModelCase`, whose ``data`` are the keyword arguments of ``model``.
"""

import difflib
import hashlib
import importlib.machinery
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.infer.cases.reference_values import validate_reference

__all__ = ["ModelCase", "ModelLoadError", "list_models", "load_model"]

_MODEL_DEFINITION = re.compile(r"^(def\s+model\s*\(|model\s*(:[^=\n]+)?=[^=])", re.MULTILINE)


class ModelLoadError(ValueError):
    """A model, its data or its reference values cannot be used as they are; the message names the file."""


@dataclass(frozen=True, eq=False)
class ModelCase:
    """A NumPyro model together with its data, ready for ``model(**data)``.

    Attributes:
        name: the folder's name, or the file's name without ``.py``.
        model: the NumPyro model function.
        data: keyword arguments of ``model``: NumPy arrays, numbers, strings, or nested dicts of these.
        reference: the checked content of ``reference.json`` (see `validate_reference`), or None.
        path: absolute path of the folder, or of the file for a single-file model.
    """

    name: str
    model: Callable[..., Any]
    data: dict[str, Any]
    reference: dict[str, Any] | None
    path: Path


def load_model(path: str | Path, data: str | Path | Mapping[str, Any] | None = None) -> ModelCase:
    """Load the NumPyro model at ``path`` with its data.

    The file is executed under a private module name made of its path and content: two models of the same
    file name never meet, ``sys.path`` stays as it was, and a model that has not changed is executed only once
    in a process. A model file can import installed packages, but not its neighbours.

    JSON numbers become ints and floats, rectangular lists become NumPy arrays. If the file defines
    ``prepare(data)``, it receives the data and returns the keyword arguments of ``model``; without it every
    field of the data must be a parameter of ``model`` and every required parameter a field.

    Args:
        path: a folder with ``model.py`` (or that ``model.py`` itself), or a single ``.py`` file that
            defines ``model``.
        data: a JSON file or a mapping that takes the place of the folder's ``data.json`` as a whole.

    Returns:
        The model, its keyword arguments, and its reference values where the folder has them. Reference values
        belong to the folder's own data: with ``data`` given they are left out.

    Raises:
        ModelLoadError: the path, ``model.py``, the data or ``reference.json`` are missing, broken or do not
            fit each other, or a value is not finite. The cause is chained.
    """
    source, folder = _locate(Path(path))
    name = source.stem if folder is None else folder.name
    module = _execute(source)
    model = getattr(module, "model", None)
    if not callable(model):
        found = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise ModelLoadError(
            f"{source} defines no function 'model'. Expected 'def model(...)', a NumPyro model; "
            f"the file has {', '.join(found) or 'no function at all'}."
        )

    origin, raw = _read_data(data, folder)
    arguments = {key: _to_numpy(value) for key, value in raw.items()}
    prepare = getattr(module, "prepare", None)
    if prepare is not None:
        arguments = _prepare(prepare, arguments, source, origin)
        origin = f"prepare(data) in {source}"
    _check_fields(model, arguments, source, origin)
    for key, value in arguments.items():
        _check_value(value, key, origin)

    reference = None
    if folder is not None and data is None and (folder / "reference.json").is_file():
        reference = _read_reference(folder / "reference.json")
    return ModelCase(name=name, model=model, data=arguments, reference=reference, path=folder or source)


def list_models(folder: str | Path) -> list[Path]:
    """List the models in ``folder``: subfolders with a ``model.py`` and ``.py`` files that define ``model``.

    Files are read, not executed. Names that begin with ``_`` or ``.`` are passed over.

    Args:
        folder: the folder to look in (not searched recursively).

    Returns:
        Paths that `load_model` takes, sorted by name.

    Raises:
        ModelLoadError: ``folder`` is not an existing folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelLoadError(
            f"no models in {folder}: it is not an existing folder. Name another: qdesampler models DIR."
        )
    return sorted(entry for entry in folder.iterdir() if entry.name[0] not in "_." and _is_model(entry))


def _is_model(entry: Path) -> bool:
    if entry.is_dir():
        return (entry / "model.py").is_file()
    if entry.suffix != ".py":
        return False
    return _MODEL_DEFINITION.search(entry.read_text(encoding="utf-8", errors="replace")) is not None


def _locate(path: Path) -> tuple[Path, Path | None]:
    """The Python file to execute, and the model's folder unless it is a single file."""
    if path.is_dir():
        folder = path.resolve()
        if (folder / "model.py").is_file():
            return folder / "model.py", folder
        raise ModelLoadError(f"the folder {path} has no model.py. {_models_near(path, path.name)}")
    if path.is_file():
        if path.suffix != ".py":
            raise ModelLoadError(f"{path} is not a model: expected a folder with model.py, or a .py file.")
        source = path.resolve()
        return source, source.parent if source.name == "model.py" else None
    nearest = next(parent for parent in path.absolute().parents if parent.is_dir())
    raise ModelLoadError(f"there is no model at {path}. {_models_near(nearest, path.stem)}")


def _models_near(folder: Path, wanted: str) -> str:
    names = [entry.name for entry in list_models(folder)]
    if not names:
        return f"{folder} holds no models (subfolders with model.py, or .py files that define 'model')."
    close = difflib.get_close_matches(wanted, names, n=1)
    return (f"Did you mean {close[0]}? " if close else "") + f"Models in {folder}: {', '.join(names)}."


def _execute(source: Path) -> ModuleType:
    content = source.read_bytes()
    digest = hashlib.sha256(str(source).encode() + b"\0" + content).hexdigest()[:20]
    module_name = f"_qdesampler_model_{re.sub(r'[^A-Za-z0-9_]', '_', source.parent.name)}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, source)
    if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
        raise ModelLoadError(f"{source} is not a Python source file that can be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look the module up by its name
    try:
        # Compiled from the bytes just read: bytecode caches compare times to the second only.
        exec(spec.loader.source_to_code(content, str(source)), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise ModelLoadError(
            f"{source} failed when executed: {type(error).__name__}: {error}{_import_remedy(error, source)}"
        ) from error
    return module


def _import_remedy(error: BaseException, source: Path) -> str:
    """What to do about a module that was not found."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    top = error.name.partition(".")[0]
    if any((source.parent / name).exists() for name in (f"{top}.py", top)):
        return (
            f". {top} lies beside the model, where Python does not look. Begin {source.name} with this line: "
            "import pathlib, sys; sys.path.insert(0, str(pathlib.Path(__file__).parent))"
        )
    return f". Install the package that holds it, for instance by: pip install {top}"


def _read_data(
    data: str | Path | Mapping[str, Any] | None, folder: Path | None
) -> tuple[str, Mapping[str, Any]]:
    """Where the data come from, in words, and the data."""
    if isinstance(data, Mapping):
        return "the data given", data
    if data is None:
        if folder is None or not (folder / "data.json").is_file():
            return "no data", {}
        data = folder / "data.json"
    content = _read_json(Path(data))
    if not isinstance(content, dict):
        raise ModelLoadError(
            f"{data} holds a {type(content).__name__} at its top level; "
            "expected an object: {field: value, ...}."
        )
    return str(data), content


def _read_json(file: Path) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON, and data must be finite")

    try:
        return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise ModelLoadError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        remedy = ""
        if file.suffix.lower() in (".csv", ".tsv", ".txt"):
            separator = ', sep="\\t"' if file.suffix.lower() == ".tsv" else ""
            remedy = (
                " Data are one JSON object with a list for each field. A table becomes one by this line of "
                "Python: "
                f'import json, pandas; json.dump(pandas.read_csv("{file.name}"{separator}).to_dict("list"), '
                f'open("{file.stem}.json", "w"))'
            )
        raise ModelLoadError(f"{file} is not valid JSON: {error}.{remedy}") from error


def _to_numpy(value: Any) -> Any:
    """Rectangular lists of numbers to arrays; anything else stays for ``prepare``."""
    if isinstance(value, Mapping):
        return {key: _to_numpy(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.copy()  # so that prepare cannot change the caller's
    if isinstance(value, (list, tuple)):
        try:
            array = np.array(value)
        except ValueError:  # ragged
            return list(value)
        return array if array.dtype.kind in "biuf" else list(value)
    return value


def _prepare(prepare: Any, arguments: dict[str, Any], source: Path, origin: str) -> dict[str, Any]:
    given = ", ".join(arguments) or "none"
    try:
        prepared = prepare(dict(arguments))
    except Exception as error:
        raise ModelLoadError(
            f"prepare(data) in {source} failed on the fields of {origin} ({given}): "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(prepared, dict):
        raise ModelLoadError(
            f"prepare(data) in {source} returned a {type(prepared).__name__}; "
            "expected a dict of the keyword arguments of model."
        )
    return prepared


def _check_fields(model: Callable[..., Any], arguments: Mapping[str, Any], source: Path, origin: str) -> None:
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError) as error:
        raise ModelLoadError(f"the parameters of 'model' in {source} cannot be read: {error}.") from error
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    if positional:
        raise ModelLoadError(
            f"model in {source} takes {', '.join(positional)} by position only; "
            "data are passed by keyword: remove the '/' from its signature."
        )
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    given = f"{origin} has {', '.join(arguments) or 'no fields'}"
    missing = [p.name for p in named if p.default is p.empty and p.name not in arguments]
    if missing:
        there = f"{given}." if arguments else "Write them into data.json beside it, or name a file of data."
        raise ModelLoadError(f"model in {source} needs {', '.join(missing)}, missing from the data. {there}")
    unknown = [key for key in arguments if key not in {p.name for p in named}]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ModelLoadError(
            f"model in {source} does not take {', '.join(map(str, unknown))}; it takes "
            f"{', '.join(p.name for p in named) or 'nothing'}; {given}. Remove the fields, or select them "
            "in a function prepare(data)."
        )


def _check_value(value: Any, field: str, origin: str) -> None:
    """Every number that reaches the model is finite, every list an array or all strings."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_value(item, f"{field}.{key}", origin)
    elif isinstance(value, (list, tuple)):
        if not all(isinstance(item, str) for item in value):
            raise ModelLoadError(
                f"field {field} from {origin} is a list that is not a rectangular array of numbers "
                "(ragged, or with nulls); pad it and pass a mask in a function prepare(data)."
            )
    elif isinstance(value, (float, np.floating, np.ndarray, jax.Array)):
        floating = jnp.issubdtype(jnp.result_type(value), jnp.inexact)
        bad = int(np.sum(~np.isfinite(np.asarray(value)))) if floating else 0
        if bad:
            raise ModelLoadError(
                f"field {field} from {origin} has {bad} value(s) that are NaN or infinite; data must be "
                "finite. For missing values pass a mask as a field of its own."
            )


def _read_reference(file: Path) -> dict[str, Any]:
    content = _read_json(file)
    try:
        validate_reference(content)
    except ValueError as error:
        raise ModelLoadError(f"{file}: {error}") from error
    return content
