"""A picture that an option asks for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qdesampler.diagnostics import draw_png, write_atomically

__all__ = ["write_picture"]


def write_picture(path: Path | None, draw: Callable[[], Any]) -> None:
    """Draw a picture into a file and say so; nothing without a file."""
    if path is not None:
        write_atomically(path, draw_png(draw))
        print(f"Written to {path}")
