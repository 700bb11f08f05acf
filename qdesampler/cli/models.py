"""`qdesampler models`: the models of a folder, a line each."""

import argparse
import ast
from pathlib import Path
from typing import Any

from qdesampler.cli.common import OK, InputError
from qdesampler.infer import list_models

__all__ = ["add_models"]


def add_models(commands: "argparse._SubParsersAction[Any]") -> argparse.ArgumentParser:
    """Add the command to the parser."""
    models = commands.add_parser("models", help="list the models of a folder")
    models.set_defaults(action=_models)
    models.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=Path("models"))
    return models


def _models(arguments: argparse.Namespace) -> int:
    paths = list_models(arguments.folder)
    if not paths:
        raise InputError(f"{arguments.folder} holds no models (folders with model.py, or .py files).")
    width = max(len(path.name) for path in paths)
    for path in paths:
        print(f"{path.name:<{width}}  {_description(path)}".rstrip())
    return OK


def _description(path: Path) -> str:
    """First line of the model's docstring; the file is read, not executed."""
    source = path / "model.py" if path.is_dir() else path
    try:
        text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, ValueError):
        return "(not valid Python)"
    return text.partition("\n")[0]
