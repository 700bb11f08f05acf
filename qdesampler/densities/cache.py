"""A file of all points that were evaluated, so that no evaluation is paid for twice.

A run is determined by its seed: begun again, it asks for the same points in the same order. So the file is
all the checkpoint that is needed: what it knows is not evaluated, and the draws are the same.

The file has one line of JSON, then records. A record has the number of its rows, a checksum, and float64
numbers: points, log densities, scores. A record that was cut short by a crash is dropped.
"""

import json
import os
import struct
import zlib
from pathlib import Path
from time import monotonic

import numpy as np

from qdesampler.driver.checkpoint import CheckpointError

try:
    import fcntl
except ImportError:  # on Windows files are not locked
    fcntl = None

__all__ = ["EvaluationCache"]

_KIND = "qdesampler evaluations 1"
_HEAD = struct.Struct("<II")
_MOST_IN_MEMORY = 10_000  # points kept without a file: some 10 MB, where evaluations are cheap and many
_SYNC_EVERY = 1.0  # seconds between two writes to the disk itself: what a power failure may cost


class EvaluationCache:
    """Points with their log densities and scores, in memory and, if there is a path, in a file.

    Without a file only the first ones are kept, which the checks before sampling ask for again.

    Args:
        path: the file; None keeps the points in memory only.
        columns: numbers of a point.

    Raises:
        CheckpointError: the file is another's, of another density, or in use.
    """

    def __init__(self, path: Path | None, columns: int):
        self._columns = columns
        self._known: dict[bytes, tuple[float, np.ndarray | None]] = {}
        self._file, self._synced = None, monotonic()
        self.loaded: int = 0
        if path is not None:
            self._open(path)
            self.loaded = len(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def first(self) -> tuple[np.ndarray, float] | None:
        """Some point and its log density, or None."""
        for key, (value, _) in self._known.items():
            return np.frombuffer(key), value
        return None

    def find(self, point: np.ndarray) -> tuple[float, np.ndarray | None] | None:
        """The log density and the score of a point, the score None if there is none; None if unknown."""
        return self._known.get(point.tobytes())

    def add(self, points: np.ndarray, values: np.ndarray, scores: np.ndarray | None) -> None:
        """Remember points, shape `(n, columns)`, and write them down.

        Raises:
            CheckpointError: the file cannot be written.
        """
        self._remember(points, values, scores)
        if self._file is None or not len(points):
            return
        parts = [points, values[:, None]] + ([] if scores is None else [scores])
        body = b"".join(np.ascontiguousarray(part, float).tobytes() for part in parts)
        rows = len(points) << 1 | (scores is not None)
        try:
            self._file.write(_HEAD.pack(rows, zlib.crc32(body)) + body)
            self._file.flush()
            if monotonic() - self._synced > _SYNC_EVERY:
                os.fsync(self._file.fileno())
                self._synced = monotonic()
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint could not be written: {error}. Free space and resume."
            ) from error

    def close(self) -> None:
        """Write all to the disk, and let others use the file."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _remember(self, points, values, scores) -> None:
        if self._file is None and len(self._known) > _MOST_IN_MEMORY:
            return
        for row, point in enumerate(points):
            score = None if scores is None else np.array(scores[row])
            self._known[np.ascontiguousarray(point).tobytes()] = float(values[row]), score

    def _open(self, path: Path) -> None:
        header = json.dumps({"kind": _KIND, "columns": self._columns}).encode() + b"\n"
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened as a checkpoint: {error.strerror}.") from error
        if fcntl is not None:
            try:
                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._file.close()
                raise CheckpointError(
                    f"{path} is in use by another run: wait for it, or name another file."
                ) from error
        self._file.seek(0)
        content = self._file.read()
        if not content:
            self._file.write(header)
            self._file.flush()
            return
        if not content.startswith(header):
            self._file.close()
            raise CheckpointError(
                f"{path} is no checkpoint of a density with {self._columns} columns: it begins with "
                f"{content[:80].splitlines()[0]!r}. Name another file."
            )
        self._file.truncate(self._read(content, len(header)))
        self._file.seek(0, os.SEEK_END)

    def _read(self, content: bytes, offset: int) -> int:
        """Remember the whole records; returns where they end."""
        while offset + _HEAD.size <= len(content):
            number, check = _HEAD.unpack_from(content, offset)
            rows, has_scores = number >> 1, number & 1
            width = self._columns * (2 if has_scores else 1) + 1
            start, end = offset + _HEAD.size, offset + _HEAD.size + 8 * rows * width
            if end > len(content) or zlib.crc32(content[start:end]) != check:
                break
            flat = np.frombuffer(content, float, rows * width, start)
            points, values, scores = np.split(flat, [rows * self._columns, rows * (self._columns + 1)])
            points = points.reshape(rows, -1)
            self._remember(points, values, scores.reshape(rows, -1) if has_scores else None)
            offset = end
        return offset
