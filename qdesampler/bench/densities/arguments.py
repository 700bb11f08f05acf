"""Arguments that the commands of this folder share."""

import argparse
from collections.abc import Callable, Iterable

__all__ = ["some_of"]


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A type of argparse: names of `known`, with commas between them; others are refused."""
    known = tuple(known)

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, got {text!r}")
        return names

    return parse
