"""One compilation cache for every worker, every child process and every run of the suite."""

import ctypes
import gc
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax._src import lru_cache
from jax.experimental.compilation_cache import compilation_cache

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
MOST_BYTES = 4 * 2**30  # a folder above this size is emptied before a run
MOST_RESIDENT = 2**30  # bytes; above it compiled programs are dropped at the end of a module


def folder() -> Path:
    """Return the folder of the compiled programs: `QDESAMPLER_TEST_CACHE`, or one for these versions."""
    if named := os.environ.get("QDESAMPLER_TEST_CACHE"):
        return Path(named)
    versions = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()[:12]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / f"qdesampler-tests-{user}" / f"{versions}-{python}"


def prune() -> None:
    """Empty the folder if it has grown too large; called once, before any worker starts."""
    files = [entry for entry in folder().glob("*") if entry.is_file()]
    if sum(entry.stat().st_size for entry in files) > MOST_BYTES:
        shutil.rmtree(folder(), ignore_errors=True)


def _put(self, key: str, value: bytes) -> None:
    """Write an entry at once: JAX writes in place, and another worker could read half of it."""
    path = self.path / f"{key}{lru_cache._CACHE_SUFFIX}"
    if not path.exists():
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_bytes(value)
        unfinished.replace(path)


@contextmanager
def used() -> Iterator[None]:
    """Keep every program on disk, in this process and in those that it starts; restore all settings."""
    settings = {
        "jax_compilation_cache_dir": str(folder()),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    flags_before = {name: getattr(jax.config, name) for name in settings}
    environment_before = {name: os.environ.get(name.upper()) for name in settings}
    put_before = lru_cache.LRUCache.put
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    lru_cache.LRUCache.put = _put
    compilation_cache.reset_cache()
    yield
    lru_cache.LRUCache.put = put_before
    for name, value in flags_before.items():
        jax.config.update(name, value)
    for name, value in environment_before.items():
        os.environ.pop(name.upper()) if value is None else os.environ.update({name.upper(): value})
    compilation_cache.reset_cache()


def resident_bytes() -> float:
    """Return the memory that this process holds, in bytes; infinite where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return float("inf")
    return pages * os.sysconf("SC_PAGE_SIZE")


def drop_programs_if_large() -> None:
    """Keep memory flat: programs are dropped when the process is large; the disk has them still."""
    if resident_bytes() > MOST_RESIDENT:
        jax.clear_caches()
        gc.collect()
        trim = getattr(
            ctypes.CDLL(None), "malloc_trim", None
        )  # of glibc: give free memory back to the system
        if trim is not None:
            trim(0)
