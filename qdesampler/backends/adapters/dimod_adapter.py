"""Ocean's samplers as backends; the only file that imports dimod.

Every `dimod.Sampler` fits: D-Wave processors behind an embedding, Leap's hybrid solvers, dwave-samplers,
OpenJij. Their law is unknown. Credentials are Ocean's business: configure them there; nothing here reads or
prints them.
"""

import hashlib
import json
import os
import time
import types
import warnings
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.checks import refuse, refuse_traced
from qdesampler.backends.precision import warn_of_range
from qdesampler.backends.problem import IsingProblem
from qdesampler.backends.protocol import BackendError, Capabilities, CheckedBackend, SampleCall, Samples
from qdesampler.validation import as_positive_int

__all__ = [
    "BackendRetryWarning",
    "DimodBackend",
    "from_bqm",
    "load_dimod",
    "read_bqm",
    "seed_from_key",
    "to_bqm",
]


class BackendRetryWarning(UserWarning):
    """A call to a device failed and is made again."""


def load_dimod() -> Any:
    """Return the module.

    Raises:
        ImportError: dimod is not installed.
    """
    try:
        import dimod
    except ImportError as error:
        raise ImportError("this needs dimod: pip install 'qdesampler[dimod]'") from error
    return dimod


def _device_properties(sampler: Any) -> Mapping[str, Any]:
    """Properties of the device under all composites: those of the first layer that limits the reads."""
    layers = [sampler]
    for layer in layers:
        if "num_reads_range" in layer.properties:
            return layer.properties
        layers.extend(getattr(layer, "children", ()))
    return layers[-1].properties


def _is_final(error: Exception) -> bool:
    """Whether the call itself is wrong, or cannot be embedded, so that repeating it cannot help."""
    return isinstance(error, (TypeError, ValueError)) or any(
        base.__name__ == "EmbeddingError" for base in type(error).__mro__
    )


def seed_from_key(key: jax.Array) -> int:
    """Return a seed in `[0, 2^31 - 1)` that is a function of the key."""
    return int(jax.random.randint(key, (), 0, 2**31 - 1))


def _conversion(given: Any) -> str:
    """How to make a binary quadratic model of something else."""
    known = {
        "IsingProblem": "It is an IsingProblem already: give it to the backend as it is.",
        "QuadraticModel": "If all its variables are bits: "
        "dimod.BinaryQuadraticModel(qm.linear, qm.quadratic, qm.offset, 'BINARY'); integers need "
        "dimod.cqm_to_bqm(dimod.ConstrainedQuadraticModel.from_quadratic_model(qm)).",
        "ConstrainedQuadraticModel": "Turn its constraints into penalties: "
        "bqm, invert = dimod.cqm_to_bqm(cqm, lagrange_multiplier=...); invert maps samples back.",
        "DiscreteQuadraticModel": "Turn its cases into bits: bqm, invert = dimod.cqm_to_bqm("
        "dimod.ConstrainedQuadraticModel.from_discrete_quadratic_model(dqm)).",
        "BinaryPolynomial": "Reduce its degree: dimod.make_quadratic(poly, strength, poly.vartype).",
    }.get(type(given).__name__)
    if known is None and isinstance(given, Mapping):
        return "For {(i, j): weight} use dimod.BinaryQuadraticModel.from_qubo(Q), for spins from_ising(h, J)."
    if known is None and isinstance(given, np.ndarray | jax.Array | Sequence):
        return "For a matrix of bits use IsingProblem.from_qubo(Q), for spins IsingProblem.from_dense(h, J)."
    return known or "PyQUBO and OpenJij models have a method that makes one, such as to_bqm()."


def from_bqm(bqm: Any, labels: Sequence[Hashable] | None = None) -> tuple[IsingProblem, tuple[Hashable, ...]]:
    """Return a sparse problem and its labels, in the model's order or in the one given.

    Numbers stay in double precision, on the host.

    Raises:
        ImportError: dimod is not installed.
        TypeError: not a binary quadratic model; the message says how to make one of what was given.
        ValueError: the labels are not those of the model.
    """
    if not isinstance(bqm, load_dimod().BinaryQuadraticModel):
        raise TypeError(
            f"from_bqm takes a dimod.BinaryQuadraticModel, got {type(bqm).__name__}. {_conversion(bqm)}"
        )
    labels = tuple(bqm.variables if labels is None else labels)
    if set(labels) != set(bqm.variables) or len(labels) != len(bqm.variables):
        raise ValueError(f"labels must be the {len(bqm.variables)} variables of the model, each once.")
    h, couplings, offset = bqm.to_ising()
    place = {label: i for i, label in enumerate(labels)}
    pairs = [(place[u], place[v]) for u, v in couplings]
    edges = np.asarray(pairs, np.int32).reshape(-1, 2)
    fields = np.array([h.get(label, 0.0) for label in labels], float)
    problem = IsingProblem.from_edges(fields, edges, np.array(list(couplings.values()), float), float(offset))
    return problem, labels


def read_bqm(path: str | os.PathLike[str]) -> Any:
    """Return the binary quadratic model of a file: dimod's JSON (`to_serializable`), or its COO text.

    Raises:
        ImportError: dimod is not installed.
        OSError: the file cannot be read.
        ValueError: another kind of file; a linear program (.lp) holds constraints, which have no such model.
    """
    dimod, file = load_dimod(), Path(path)
    if file.suffix == ".lp":
        raise ValueError(
            f"{file} is a linear program with constraints; turn them into penalties first: "
            "bqm, invert = dimod.cqm_to_bqm(dimod.lp.loads(text))."
        )
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        try:
            return dimod.BinaryQuadraticModel.from_serializable(json.loads(text))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is not a model of dimod in JSON ({type(error).__name__}); write it with "
                "json.dump(bqm.to_serializable(), file)."
            ) from error
    from dimod.serialization import coo

    try:
        model = coo.loads(text, vartype=None if "vartype" in text.split("\n", 1)[0] else dimod.BINARY)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is neither JSON (.json) nor COO text ({error}).") from error
    if not model.num_variables:
        raise ValueError(f"{file} is neither JSON (.json) nor COO text, lines of two indices and a number.")
    return model


def to_bqm(problem: IsingProblem, labels: Sequence[Hashable] | None = None, *, scale: float = 1.0) -> Any:
    """Return `scale E` as a dimod model of spins, labelled 0 to n - 1 or as given.

    Raises:
        ImportError: dimod is not installed.
        ValueError: not one label for each variable.
    """
    sparse = problem.sparse()
    edges = np.asarray(sparse.edges).reshape(-1, 2)
    linear, quadratic = np.asarray(sparse.h, float) * scale, np.asarray(sparse.J, float) * scale
    bqm = load_dimod().BinaryQuadraticModel.from_numpy_vectors(
        linear, (edges[:, 0], edges[:, 1], quadratic), float(sparse.offset) * scale, "SPIN"
    )
    if labels is None:
        return bqm
    if len(set(labels)) != problem.num_variables or len(labels) != problem.num_variables:
        raise ValueError(f"{problem.num_variables} variables need as many labels, got {len(labels)}.")
    return bqm.relabel_variables(dict(enumerate(labels)), inplace=False)


class DimodBackend(CheckedBackend):
    """Any `dimod.Sampler` as a backend of unknown law.

    The device sees `beta E`: a sampler at temperature one then aims at `exp(-beta E)`. Reads come back in
    random order (histograms are sorted by energy), one row a read, columns by variable, energies by our own
    sum. `sample` makes as many calls to the device as its limit of reads requires. It takes no `schedule`
    (give the device's own to the constructor), and `initial_states` only if the sampler does. The sampler's
    own errors about bad arguments pass through; wrong variables, values that are not spins and too many
    failed calls raise `BackendError`.

    Attributes:
        records: one dictionary a call that succeeded: reads, seconds, attempts, the device's `timing`, the
            mean `chain_break_fraction` where there are chains.
    """

    def __init__(
        self,
        sampler: Any,
        *,
        labels: Sequence[Hashable] | None = None,
        max_num_reads: int | None = None,
        num_retries: int = 3,
        backoff: float = 1.0,
        cache_directory: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ):
        """Wrap a sampler.

        Args:
            sampler: a `dimod.Sampler`.
            labels: the device's names for variables 0 to n - 1; None for the integers.
            max_num_reads: most reads of one call; None for the `num_reads_range` of the device, embedding and
                other composites looked through. Samplers of OpenJij repeat one read for every seed, so they
                are called once a read.
            num_retries: calls made again after failures or for missing reads, before giving up.
            backoff: seconds before the first retry, doubled each time.
            cache_directory: where reads are kept, by problem and arguments; None for no cache.
            **kwargs: passed to every call of `sampler.sample`.

        Raises:
            ImportError: dimod is not installed.
            TypeError: not a `dimod.Sampler`.
            ValueError: a negative number of retries or backoff.
        """
        if not isinstance(sampler, load_dimod().Sampler):
            raise TypeError(f"DimodBackend wraps a dimod.Sampler, got {type(sampler).__name__}.")
        if num_retries < 0 or not backoff >= 0:
            raise ValueError(f"num_retries and backoff must not be negative, got {num_retries}, {backoff}.")
        limit = _device_properties(sampler).get("num_reads_range", (1, None))[-1]
        if type(sampler).__module__.startswith("openjij"):
            limit = 1
        given = [each for each in (max_num_reads, limit) if each is not None]
        self._limit = min(as_positive_int("max_num_reads", each) for each in given) if given else None
        self._sampler, self._kwargs, self._labels = sampler, dict(kwargs), labels
        self._num_retries, self._backoff = num_retries, backoff
        self._cache = None if cache_directory is None else Path(cache_directory)
        self._closed, self._threads = False, None
        self.records: list[dict[str, Any]] = []

    @property
    def capabilities(self) -> Capabilities:
        """Unknown law; the rest is read from the sampler's own parameters."""
        names = set(self._sampler.parameters)
        graph = _device_properties(self._sampler).get("topology")
        return Capabilities(
            law="unknown",
            jittable=False,
            remote=True,
            seeded="seed" in names,
            initial_states=bool(names & {"initial_states", "initial_state"}),
            max_num_reads=self._limit,
            topology=(graph["type"], *graph["shape"]) if graph else None,
        )

    @property
    def properties(self) -> Mapping[str, Any]:
        """The sampler's own properties."""
        return types.MappingProxyType(dict(self._sampler.properties))

    def _check_ready(self, problem: IsingProblem, key: jax.Array, beta: ArrayLike) -> None:
        refuse_traced(
            "DimodBackend runs on the host and cannot be traced: fill a pool before (build_pool).",
            *(problem, key, beta),
        )
        if self._closed:
            raise BackendError("this backend is closed; make another one.")

    def _refuse(self, schedule: Any, initial_states: ArrayLike | None) -> None:
        refuse("DimodBackend", schedule=schedule)
        if initial_states is not None and not self.capabilities.initial_states:
            raise ValueError(f"{type(self._sampler).__name__} takes no initial states.")

    def _draw(self, call: SampleCall) -> Samples:
        problem, key, num_reads = call.problem, call.key, call.num_reads
        start = None if call.initial_states is None else np.asarray(call.initial_states)
        path = self._cache_path(problem, key, num_reads, call.beta, start)
        if path is not None and path.exists():
            states = np.load(path)
        else:
            bqm = to_bqm(problem, self._labels, scale=float(call.beta))
            scaled = (problem.h * call.beta, problem.J * call.beta)
            warn_of_range(type(self._sampler).__name__, scaled, _device_properties(self._sampler))
            states = self._collect(bqm, problem.num_variables, key, num_reads, start)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(f".{os.getpid()}.npy")
                np.save(part, states)
                part.replace(path)
        states = jnp.asarray(states, jnp.int8)
        return Samples(states, problem.energies(states))

    def submit(self, problem: IsingProblem, **call: Any) -> "Future[Samples]":
        """Start `sample` in a thread and return its future; calls of one backend run one after another."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, "annealer")
        return self._threads.submit(self.sample, problem, **call)

    def close(self) -> None:
        """Wait for what was submitted and close the sampler."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        if not self._closed and hasattr(self._sampler, "close"):
            self._sampler.close()
        self._closed = True

    def _cache_path(self, problem, key, num_reads, scale, start) -> Path | None:
        if self._cache is None:
            return None
        digest = hashlib.sha256(type(self._sampler).__qualname__.encode())
        data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
        for value in (*problem, data, num_reads, scale, start):
            digest.update(b"none" if value is None else repr(np.shape(value)).encode())
            digest.update(b"" if value is None else np.ascontiguousarray(value).tobytes())
        digest.update(repr((sorted(self._kwargs.items()), self._labels)).encode())
        return self._cache / f"{digest.hexdigest()}.npy"

    def _collect(self, bqm, n: int, key, num_reads: int, start: np.ndarray | None) -> np.ndarray:
        one_state = start is not None and "initial_states" not in self._sampler.parameters
        limit = 1 if one_state else (self._limit or num_reads)
        found, attempts, call = np.zeros((0, n), np.int8), 0, 0
        while len(found) < num_reads:
            key_seed, key_order = jax.random.split(jax.random.fold_in(key, call))
            call += 1
            wanted = min(limit, num_reads - len(found))
            arguments = dict(self._kwargs, num_reads=wanted)
            if "seed" in self._sampler.parameters and "seed" not in self._kwargs:
                arguments["seed"] = seed_from_key(key_seed)
            if start is not None:
                rows = start[len(found) : len(found) + wanted]
                labels = list(bqm.variables) if self._labels is None else list(self._labels)
                if one_state:
                    arguments["initial_state"] = dict(zip(labels, rows[0].tolist(), strict=True))
                else:
                    arguments["initial_states"] = (rows, labels)
            began = time.perf_counter()
            trouble = None
            try:
                answer = self._sampler.sample(bqm, **arguments)
                answer.resolve()
            except Exception as error:
                if _is_final(error):
                    raise
                trouble = type(error).__name__
                answer = None
            states = np.zeros((0, n), np.int8)
            if answer is not None:
                states = self._read(answer, n, key_order)[:wanted]
            if len(states) < wanted:
                trouble = trouble or f"{len(states)} of {wanted} reads"
                self._pause(trouble, attempts)
                attempts += 1
            if answer is not None:
                self._record(answer, len(states), time.perf_counter() - began, attempts)
            found = np.concatenate([found, states])
        return found

    def _pause(self, trouble: str, attempts: int) -> None:
        name = type(self._sampler).__name__
        if attempts >= self._num_retries:
            # the device's own message may hold an address or a token: only its kind is passed on
            raise BackendError(
                f"{name} failed {attempts + 1} times, last with {trouble}; call its sample on "
                "to_bqm(problem) to see its own message, or raise num_retries."
            ) from None
        wait = self._backoff * 2**attempts
        warnings.warn(f"{name}: {trouble}; again in {wait:g} s.", BackendRetryWarning, stacklevel=5)
        time.sleep(wait)

    def _read(self, answer, n: int, key) -> np.ndarray:
        """Reads in random order, columns by label."""
        labels = tuple(range(n)) if self._labels is None else tuple(self._labels)
        if set(answer.variables) != set(labels):
            raise BackendError(
                f"{type(self._sampler).__name__} returned {len(answer.variables)} variables that are not the "
                f"{n} of the problem."
            )
        record = answer.record
        columns = [answer.variables.index(label) for label in labels]
        states = np.repeat(record.sample[:, columns], record.num_occurrences, axis=0)
        if answer.vartype.name == "BINARY":
            states = 2 * states - 1
        if not np.all(np.abs(states) == 1):
            raise BackendError(f"{type(self._sampler).__name__} returned values that are not spins.")
        return states[np.asarray(jax.random.permutation(key, len(states)))].astype(np.int8)

    def _record(self, answer, reads: int, seconds: float, attempts: int) -> None:
        record = {"reads": reads, "seconds": seconds, "failures": attempts}
        if "timing" in answer.info:
            record["timing"] = dict(answer.info["timing"])
        if "chain_break_fraction" in (answer.record.dtype.names or ()):
            record["chain_break_fraction"] = float(np.mean(answer.record.chain_break_fraction))
        self.records.append(record)
