"""Draws the pictures of `gallery.md`, by the code of that page: python docs/gallery.py.

The pictures are written to `docs/gallery/`, from where the pages take them.
"""

import os
import re
from pathlib import Path

__all__ = ["draw", "with_pictures"]

PAGE = Path(__file__).with_name("gallery.md")
PICTURES = PAGE.with_suffix("")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r'"(\w+\.png)"')


def draw(folder: Path) -> list[Path]:
    """Run the code of the page in order, from the root of the repository; return the pictures.

    Raises:
        RuntimeError: a block names a picture and does not write it.
    """
    folder.mkdir(exist_ok=True)
    namespace: dict = {"__name__": "gallery"}
    found = []
    before = Path.cwd()
    for number, code in enumerate(_BLOCK.findall(PAGE.read_text(encoding="utf-8")), 1):
        os.chdir(PAGE.parents[1])
        try:
            pictures = _PICTURE.findall(code)
            placed = _PICTURE.sub(lambda name: repr(str(folder / name[1])), code)
            exec(compile(placed, f"{PAGE.name}, block {number}", "exec"), namespace)
        finally:
            os.chdir(before)
        for name in pictures:
            if not (folder / name).is_file():
                raise RuntimeError(f"Block {number} of {PAGE.name} does not write {name}.")
        found += [folder / name for name in pictures]
    return found


def with_pictures(text: str) -> str:
    """The page with the pictures that are there, each below its code."""

    def shown(block: re.Match) -> str:
        names = [name for name in _PICTURE.findall(block[1]) if (PICTURES / name).is_file()]
        images = (f"![{name.removesuffix('.png')}]({PICTURES.name}/{name})" for name in names)
        return "\n\n".join([block[0], *images])

    return _BLOCK.sub(shown, text)


if __name__ == "__main__":
    for path in draw(PICTURES):
        print(path.relative_to(Path.cwd(), walk_up=True))
