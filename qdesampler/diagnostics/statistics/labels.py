"""Short forms of long names, for tables and plots that have little room."""

from collections.abc import Sequence

__all__ = ["short_names"]

_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_STEP = 8  # characters by which names grow until all differ


def short_names(names: Sequence[str], most: int) -> list[str]:
    """The names with at most `most` characters, cut in the middle; different names stay different.

    The end is kept because it has the index, as in "hierarchical...loc[2]". Where two different names would
    become equal, all get more characters.

    Args:
        names: any texts.
        most: most characters of a name, at least 3.

    Raises:
        ValueError: `most` is below 3.
    """
    if most < 3:
        raise ValueError(f"a short name needs at least 3 characters, got {most}.")
    different = len(set(names))
    while True:
        short = [_cut(name, most) for name in names]
        if len(set(short)) == different:
            return short
        most += _STEP


def _cut(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    tail = (most - 1) // 2
    return name[: most - 1 - tail] + _ELLIPSIS + name[len(name) - tail :]
