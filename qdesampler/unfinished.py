"""Files and folders that are whole or absent, and what to do with the unfinished ones of a process that died.

Content is written under a temporary name, `.unfinished-NAME.RANDOM`, beside its place and then renamed. As
long as the writer lives, it holds a lock (`flock`) on what it writes; the system releases the lock when the
process ends in whatever way. Thus anyone can tell the leftovers of the dead from the work of the living.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

__all__ = ["UnfinishedFolder", "clear_unfinished", "is_unfinished", "replacing"]

_PREFIX = ".unfinished-"
_LOCK = ".lock"  # the file in an unfinished folder that its writer keeps locked


def is_unfinished(path: Path) -> bool:
    """Whether the name is one of those that `replacing` and `UnfinishedFolder` give."""
    return path.name.startswith(_PREFIX)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` at the end of the block, unless the block raises.

    The content is synced to the disk before the file is renamed, and the folder after it, so that `path` is
    unchanged or complete at any moment. What dead writers of the same file left behind is removed. The file
    has the permissions of the user's umask.

    Raises:
        OSError: the folder does not exist or cannot be written, or the disk is full.
    """
    clear_unfinished(path.parent, path.name)
    temporary = _temporary(path)
    with open(temporary, "xb") as file:
        try:
            _lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


class UnfinishedFolder:
    """A hidden folder whose content is on its way to `path`; its writer holds it until `close`.

    Args:
        path: where the content will be; the folder is made beside it, or in it with `inside`.
        inside: whether to make the folder in `path`.

    Attributes:
        path: the hidden folder.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, path: Path, *, inside: bool = False):
        self.path: Path = _temporary(path / "results" if inside else path)
        self.path.mkdir()
        self._handle = os.open(self.path / _LOCK, os.O_WRONLY | os.O_CREAT)
        _lock(self._handle)

    def files(self) -> list[Path]:
        """The files in the folder, relative to it and sorted."""
        found = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return sorted(name for name in found if name != Path(_LOCK))

    def rename(self, path: Path) -> None:
        """Make the folder `path`, which must not exist.

        Raises:
            OSError: the folder cannot be renamed.
        """
        (self.path / _LOCK).unlink()
        os.rename(self.path, path)
        _sync_folder(path.parent)

    def close(self) -> None:
        """Remove the folder, if it has not been renamed, and release it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def clear_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove the unfinished files and folders of processes that have ended.

    What a living process writes stays, and so does what this process may not remove.

    Args:
        folder: where to look; it may be missing.
        name: only what was on its way to this name; None takes all.
    """
    prefix = _PREFIX if name is None else f"{_PREFIX}{name}."
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if not path.name.startswith(prefix) or _is_written(path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            try:
                path.unlink(missing_ok=True)
            except PermissionError:
                continue


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{_PREFIX}{path.name}.{secrets.token_hex(4)}")


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a file system without locks: nothing will be taken for the work of a dead process
        return


def _is_written(path: Path) -> bool:
    """Whether a living process holds the lock, or nobody can tell."""
    try:
        handle = os.open(path / _LOCK if path.is_dir() else path, os.O_RDWR)
    except FileNotFoundError:  # the writer died before it could lock the folder
        return False
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
