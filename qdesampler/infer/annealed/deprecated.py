"""Old names of arguments, which work for one more version with a warning."""

import warnings
from typing import Any

__all__ = ["renamed_argument"]


def renamed_argument(old: str, new: str, value: Any) -> Any:
    """`value`, after a DeprecationWarning at the caller's caller that names the new argument."""
    warnings.warn(
        f"The argument {old} is now called {new}: use {new}={value!r}.", DeprecationWarning, stacklevel=3
    )
    return value
