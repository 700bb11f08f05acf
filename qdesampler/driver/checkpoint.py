"""Checkpoint files: named arrays and a JSON header in one file, written completely or not at all.

A file has one line with the kind and version of the format, the SHA-256 of all that follows, the length of
the header, the header in JSON, and the bytes of the arrays. Reading a file executes nothing (no pickle).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from qdesampler.unfinished import replacing

__all__ = ["CheckpointError", "read_arrays", "write_arrays"]

_KIND = b"qdesampler arrays "
# Version of the format. It changes with the layout of a file and with the names of fields in kernels' states,
# which are names of arrays in a checkpoint.
_VERSION = 2
_FIRST_LINE = _KIND + b"%d\n" % _VERSION
_DIGEST = 64  # characters of a SHA-256 in hexadecimal


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or used for this run; the message says why and what to do."""


def write_arrays(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file so that at any moment `path` is either unchanged or complete.

    The bytes go to a new file in the same folder, which is renamed when they are on the disk
    (`qdesampler.unfinished.replacing`).

    Args:
        path: the file; an existing file is replaced.
        header: any value that JSON can hold.
        arrays: numeric arrays by name.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; `path` is unchanged.
    """
    table, offset = [], 0
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in contiguous.items():
        table.append({"name": name, "dtype": array.dtype.name, "shape": array.shape, "offset": offset})
        offset += array.nbytes
    head = json.dumps({"header": dict(header), "arrays": table}, allow_nan=True).encode()
    size = b"%d\n" % len(head)
    digest = hashlib.sha256(size + head)
    for array in contiguous.values():
        digest.update(_bytes(array))
    try:
        with replacing(path) as file:
            file.write(_FIRST_LINE + digest.hexdigest().encode() + b"\n" + size + head)
            for array in contiguous.values():
                file.write(_bytes(array))
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error.strerror or error}. What was there before is untouched; "
            "free space or name another folder, and resume."
        ) from error


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a file that `write_arrays` wrote.

    Raises:
        CheckpointError: the file does not exist, is of another kind or version, is cut short, or was changed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} could not be read: {error.strerror or error}.") from error
    if not content.startswith(_KIND):
        raise CheckpointError(f"{path} does not begin as a file of qdesampler does; it is something else.")
    if not content.startswith(_FIRST_LINE):
        found = content[len(_KIND) :].partition(b"\n")[0][:20].decode(errors="replace")
        raise CheckpointError(
            f"{path} has format {found}, written by another version of qdesampler; this version reads format "
            f"{_VERSION}. Finish the run with the version that began it, or start it anew in another folder."
        )
    start = len(_FIRST_LINE)
    digest, body = content[start : start + _DIGEST], memoryview(content)[start + _DIGEST + 1 :]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise CheckpointError(
            f"{path} is damaged: its checksum does not match its content ({len(content)} bytes)."
        )
    line = content.index(b"\n", start + _DIGEST + 1)
    length = int(content[start + _DIGEST + 1 : line])
    described = json.loads(content[line + 1 : line + 1 + length])
    first = line + 1 + length
    arrays = {}
    for entry in described["arrays"]:
        dtype, shape = jnp.dtype(entry["dtype"]), tuple(entry["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.frombuffer(content, dtype, count, first + entry["offset"])
        arrays[entry["name"]] = flat.reshape(shape)
    return described["header"], arrays


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8)) if array.size else memoryview(b"")
