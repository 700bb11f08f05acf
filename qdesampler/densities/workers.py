"""Batches of evaluations on the workers of any executor with the face of `concurrent.futures`.

A worker may fail, die or never answer. The chunk it had is given to another one, at most `retries` times.
An executor that is broken is made anew if its maker is known; otherwise the calling process evaluates the
rest itself, and a warning says so. Errors of the user's function are not retried: they are results.
"""

import pickle
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, ProcessPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np

from qdesampler.densities.errors import EvaluationError, EvaluationWarning

__all__ = ["Outcome", "Workers", "attempt"]


class Outcome(NamedTuple):
    """What a call of the user's function returned, or the text of its exception."""

    result: Any
    error: str = ""


def attempt(evaluate: Callable, points: np.ndarray) -> Outcome:
    """One call of the user's function, on whatever machine this runs."""
    try:
        return Outcome(evaluate(points))
    except Exception:
        return Outcome(None, traceback.format_exc(limit=-8))


class Workers:
    """An executor, and what is done when it fails.

    Args:
        evaluate: the user's function.
        executor: with `submit`; or a function without arguments that makes one, which is called again when
            the executor breaks. Only executors that were made here are shut down here.
        timeout: seconds in which at least one of the chunks under way has to be finished; None: no limit.
        retries: times that a chunk is given to another worker.

    Raises:
        ValueError: `executor` is neither.
    """

    def __init__(self, evaluate: Callable, executor: Any, timeout: float | None, retries: int):
        self._evaluate, self._timeout, self._retries = evaluate, timeout, retries
        self._make = None
        self._executor: Any = executor
        self.lost: Counter[str] = Counter()
        self._fruitless = 0  # executors that were made since the last chunk was finished
        if not hasattr(executor, "submit"):
            if not callable(executor):
                raise ValueError(
                    f"executor is {executor!r}; expected an object with `submit`, as those of "
                    "concurrent.futures, or a function that makes one."
                )
            self._make = executor
            self._executor = executor()
        self._check_pickling()

    def _check_pickling(self) -> None:
        """Other executors pickle by cloudpickle, which takes nearly everything."""
        if not isinstance(self._executor, ProcessPoolExecutor):
            return
        try:
            pickle.dumps(self._evaluate)
        except Exception as error:
            raise _not_picklable(self._evaluate, error) from error

    def run(self, chunks: Sequence[np.ndarray], done: Callable[[int, Outcome], None]) -> None:
        """Evaluate all chunks; `done(index, outcome)` is called as each is finished, in any order.

        Raises:
            EvaluationError: a chunk was lost more often than `retries` allows, or cannot be pickled.
        """
        attempts: Counter[int] = Counter()
        todo, pending = list(range(len(chunks))), {}
        while todo or pending:
            while todo and self._executor is not None:
                try:
                    future = self._executor.submit(attempt, self._evaluate, chunks[todo[-1]])
                except Exception as error:  # it is shut down or broken
                    self._replace(error)
                    continue
                pending[future] = todo.pop()
            if self._executor is None:
                self._here(chunks, [*todo, *pending.values()], done)
                return
            finished, _ = wait(pending, self._timeout, FIRST_COMPLETED)
            if not finished:
                todo += self._too_slow(pending, attempts, chunks)
                continue
            broken: BaseException | None = None
            for future in finished:
                index = pending.pop(future)
                try:
                    outcome = future.result()
                except (Exception, CancelledError) as error:
                    broken = error if isinstance(error, BrokenExecutor) else broken
                    self._lost(error, index, attempts, chunks)
                    todo.append(index)
                else:
                    self._fruitless = 0
                    done(index, outcome)
            if broken is not None:
                todo += pending.values()
                pending = {}
                self._replace(broken)

    def _here(self, chunks, indices, done) -> None:
        for index in sorted(indices):
            done(index, attempt(self._evaluate, chunks[index]))

    def _lost(self, error: BaseException, index: int, attempts: Counter, chunks) -> None:
        """Count a chunk that a worker lost."""
        words = f"{type(error).__name__}: {error}"
        if isinstance(error, pickle.PicklingError) or "pickle" in str(error).lower():
            raise _not_picklable(self._evaluate, error) from error
        self.lost[type(error).__name__] += 1
        attempts[index] += 1
        if attempts[index] > self._retries:
            raise EvaluationError(
                f"A worker was lost {attempts[index]} times while it evaluated {_shown(chunks[index])}. The "
                f"last time it was {words}. Evaluate this point by itself to see why; retries= sets how "
                "often it is tried again."
            ) from error

    def _too_slow(self, pending: dict[Any, Any], attempts: Counter, chunks) -> list[int]:
        """Give what no worker answered to others; returns the chunks."""
        for future, index in pending.items():
            future.cancel()
            if attempts[index] >= self._retries:
                raise EvaluationError(
                    f"No evaluation was finished in {self._timeout:g} s, {self._retries + 1} times; one of "
                    f"{len(pending)} under way is {_shown(chunks[index])}. Raise timeout=, or "
                    "look why it hangs."
                )
            attempts[index] += 1
        self.lost["timeout"] += len(pending)
        again = list(pending.values())
        pending.clear()
        if self._make is not None:  # the workers that hang would keep their places
            self._replace(TimeoutError(f"no answer in {self._timeout:g} s"))
        return again

    def _replace(self, error: BaseException) -> None:
        """Another executor; without its maker the calling process goes on alone."""
        words = f"{type(error).__name__}: {error}"
        if self._make is not None:
            self._stop(self._executor)
            self._fruitless += 1
            if self._fruitless > self._retries + 1:
                raise EvaluationError(
                    f"{self._fruitless} executors broke one after another and finished nothing. The last "
                    f"error was {words}."
                ) from error
            self._executor = self._make()
            self.lost["executors"] += 1
            return
        self._executor = None
        warnings.warn(
            f"The executor is broken ({words}). All other evaluations are made in this process, one after "
            "another. Give executor= a function that makes an executor, so that it can be made anew.",
            EvaluationWarning,
            stacklevel=2,
        )
        self.lost["fallback"] += 1

    def close(self) -> None:
        """Shut down an executor that was made here."""
        if self._make is not None and self._executor is not None:
            self._stop(self._executor)
            self._executor = None

    @staticmethod
    def _stop(executor: Any) -> None:
        for process in list((getattr(executor, "_processes", None) or {}).values()):
            process.terminate()  # one that hangs would be waited for when Python ends
        executor.shutdown(wait=False, cancel_futures=True)


def _shown(points: np.ndarray) -> str:
    numbers = np.array2string(points[0], precision=6, threshold=8)
    return f"the point {numbers}" + (f" and {len(points) - 1} others" if len(points) > 1 else "")


def _not_picklable(evaluate: Callable, error: BaseException) -> EvaluationError:
    return EvaluationError(
        f"The workers cannot be sent {evaluate!r}: {type(error).__name__}: {error}. Define it at the top of "
        "a module (no lambda, no function inside a function, no open file or lock in it), or use an executor "
        "that pickles by cloudpickle: loky.get_reusable_executor(), or a Dask client's get_executor()."
    )
