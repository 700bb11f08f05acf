"""Files that are written completely or not at all."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from qdesampler.unfinished import UnfinishedFolder, clear_unfinished, is_unfinished, replacing

__all__ = ["ResultFolder", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    with replacing(path) as file:
        file.write(content)


class ResultFolder:
    """A folder whose files appear only when all of them are finished.

    The folder is made and checked immediately. Files are written to `staging`, a hidden folder inside it, and
    `publish` moves them to their places. Use it in a `with` statement: if the block ends without `publish`,
    the folder is as it was before. What a killed process left unfinished in the folder is removed.

    Args:
        path: the folder, made if it does not exist.
        overwrite: whether the folder may be non-empty; files of the same names are replaced, others stay.
        stale: names of files, relative to the folder, that `publish` removes unless they are written anew.

    Attributes:
        path: the folder.
        staging: the folder to write to.

    Raises:
        FileExistsError: the path is a file, or a non-empty folder without `overwrite`.
        OSError: the folder cannot be made or written.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, stale: Sequence[str] = ()):
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} is a file; expected a folder, new or empty.")
        clear_unfinished(path)
        content = list(path.iterdir()) if path.is_dir() else []
        if any(is_unfinished(entry) for entry in content):
            raise FileExistsError(
                f"{path} is being written by another process; wait for it, or name another folder."
            )
        if content and not overwrite:
            raise FileExistsError(f"{path} is not empty; name another folder, or overwrite it.")
        self.path = path
        self._stale = stale
        self._discard_path = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        self._unfinished = UnfinishedFolder(path, inside=True)
        self.staging: Path = self._unfinished.path

    def publish(self) -> list[Path]:
        """Move every file out of `staging`; returns the new paths, sorted.

        Raises:
            OSError: a file could not be moved.
        """
        names = self._unfinished.files()
        self._discard_path = False
        for name in names:
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.staging / name, target)
        for name in set(map(Path, self._stale)) - set(names):
            (self.path / name).unlink(missing_ok=True)
        return [self.path / name for name in names]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unfinished.close()
        if self._discard_path:
            self.path.rmdir()
