"""The loop of a run: chunks of iterations, and what happens between them."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from qdesampler.driver.draw_buffer import DrawBuffer
from qdesampler.driver.draw_store import DrawStore
from qdesampler.driver.files import RunFiles, named_leaves
from qdesampler.driver.processes import Processes, local_part
from qdesampler.driver.program import ChainProgram, ChunkCounts
from qdesampler.driver.progress import Progress
from qdesampler.driver.stopping import Check, Until, check_draws, looks

__all__ = ["Position", "Run", "RunLoop", "memory_told"]

_FIRST_CHUNK = 16
_CHUNK_SECONDS = 0.5
_REASONS = ("", "max_evals", "max_time", "callback", "interrupt", "SIGTERM")  # the strongest last


@dataclass
class Position:
    """How far a run is; all of it is in a checkpoint.

    Attributes:
        iteration: done by every chain.
        draws: kept of every chain.
        evaluations: of all chains.
        divergences: divergent iterations after warm-up.
        seconds: wall time of earlier calls.
    """

    iteration: int = 0
    draws: int = 0
    evaluations: int = 0
    divergences: int = 0
    seconds: float = 0.0


@dataclass
class Run:
    """What is to be done.

    Attributes:
        program: the compiled programs.
        args: the model's arguments.
        kwargs: its keyword arguments.
        states: one for each group of chains, replaced chunk by chunk.
        groups: the chains of each group.
        warmup: iterations before the first is collected.
        skip: iterations after it that belong to no whole window of thinning.
        thinning: iterations to a draw.
        draws: kept draws of each chain at most.
        buffer: where they go, those of this process.
        processes: those that run together.
        position: where the run stands.
    """

    program: ChainProgram
    args: Sequence
    kwargs: dict
    states: list
    groups: list[slice]
    warmup: int
    skip: int
    thinning: int
    draws: int
    buffer: DrawBuffer | DrawStore
    processes: Processes
    position: Position = field(default_factory=Position)

    @property
    def iterations(self) -> int:
        """In all."""
        return self.warmup + self.skip + self.thinning * self.draws


class RunLoop:
    """Takes a run to its end, chunk by chunk.

    How it is cut does not touch the draws: chunks follow the clock, and end where a checkpoint or a look is
    due.

    Args:
        run: what to do; its states, buffer and position are brought forward.
        until: what ends it before.
        callbacks: called with a `Progress` after each chunk; the run ends when one returns True.
        look: whether to look at effective draws without `until` asking for it.
        files: where checkpoints go, or None.
        header: what a checkpoint says beside the position.
        every: iterations between checkpoints.
    """

    def __init__(
        self,
        run: Run,
        *,
        until: Until | None,
        callbacks: Sequence[Callable[[Progress], Any]],
        look: bool,
        files: RunFiles | None,
        header: dict,
        every: int,
    ):
        self._run = run
        self._until = until
        self._callbacks = callbacks
        self._looking = look or (until is not None and until.looks_at_draws)
        self._files = files
        self._header = header
        self._every = every
        self._on_disk = run.position.draws
        self._saved_at = run.position.iteration
        self._length = _FIRST_CHUNK
        self._timed = False
        self._asked: set[int] = set()  # signals that came
        self.at_once = False
        self.check: Check | None = None

    def go(self) -> str:
        """Run until something ends it.

        Returns:
            "num_samples", "until", "max_time", "max_evals", "callback" or "interrupt".

        Raises:
            CheckpointError: a checkpoint could not be written; the run's buffer and states are as they were.
            MemoryError: the device has too little memory.
            LostProcessError: another process of the run is gone.
            KeyboardInterrupt: before the first draw; with `files`, after the checkpoint was written.
                Ctrl-C ends the run after the chunk, a second one at once.
            SystemExit: the process was asked to end (SIGTERM, with `files`), after the checkpoint was
                written.
        """
        self._began = time.monotonic()
        self._before = self._run.position.evaluations
        first = self._run.position.iteration
        self._first_iteration = first
        self._looks = looks()
        self._next_look = next(look for look in self._looks if look > self._run.position.draws)
        if self._files is not None and self._run.position.iteration == 0:
            self.save()
        with self._signals():
            try:
                with self._run.processes.watched(self._kept):
                    reason = self._loop()
            except KeyboardInterrupt:
                reason = "interrupt"
            unsaved = self._run.position.iteration > self._saved_at
            if self._files is not None and unsaved and not self.at_once:
                self.save()
        if reason == "SIGTERM":
            raise SystemExit(128 + signal.SIGTERM)
        if reason == "interrupt" and self._run.position.draws == 0:
            raise KeyboardInterrupt("The run was interrupted in its warm-up: no draw is lost, none was made.")
        return reason

    @property
    def seconds(self) -> float:
        """Wall time of this call so far."""
        return time.monotonic() - self._began

    def save(self) -> None:
        """Write the draws that are new and the state."""
        assert self._files is not None
        run, at = self._run, self._run.position
        arrays = {}
        for group, state in enumerate(run.states):
            arrays |= {f"{group}|{name}": leaf for name, leaf in named_leaves(state).items()}
        moment = {**vars(at), "seconds": at.seconds + self.seconds}
        self._files.write(
            at.iteration,
            {**self._header, "position": moment},
            arrays,
            self._on_disk,
            run.buffer.named(self._on_disk, at.draws),
        )
        self._on_disk, self._saved_at = at.draws, at.iteration

    def _kept(self) -> str:
        if self._files is None:
            return "The draws of this process are kept; there are no checkpoints to resume from."
        return f"Start all again and `resume`: iteration {self._saved_at} is in {self._files.folder.parent}."

    def _loop(self) -> str:
        run, at = self._run, self._run.position
        while at.iteration < run.iterations:
            with run.processes.patience(self._kept) if self._timed else nullcontext():
                reason = self._turn()
            if reason:
                return reason
        return "num_samples"

    def _turn(self) -> str:
        """One chunk and what follows it; why the run ends, or nothing."""
        run, at = self._run, self._run.position
        rows, stride = self._next_chunk()
        counts = self._advance(rows, stride)
        if self._files is not None and at.iteration - self._saved_at >= self._every:
            self.save()
        if self._looking and at.draws >= self._next_look:
            self.check = check_draws(run.buffer.sample(), at.draws, run.processes.gathered)
            self._next_look = next(look for look in self._looks if look > at.draws)
            if self._until is not None and self._until.looks_at_draws and self._until.is_met(self.check):
                self._tell(counts, rows * stride)
                return "until"
        own = self._reason(self._tell(counts, rows * stride))
        reason, self._length = run.processes.agreed(_REASONS, own, self._length)
        return reason

    def _reason(self, asked: bool) -> str:
        """Why this process would end the run now."""
        if signal.SIGTERM in self._asked:
            return "SIGTERM"
        if self._asked:
            return "interrupt"
        if asked:
            return "callback"
        if self._until is not None and self.seconds > (self._until.max_time or np.inf):
            return "max_time"
        if self._until is not None and self._run.position.evaluations >= (self._until.max_evals or np.inf):
            return "max_evals"
        return ""

    def _next_chunk(self) -> tuple[int, int]:
        """Rows and iterations to a row of the next chunk; it crosses no border."""
        run, at = self._run, self._run.position
        length = self._length
        if self._files is not None:
            length = min(length, self._saved_at + self._every - at.iteration)
        for border in (run.warmup, run.warmup + run.skip):
            if at.iteration < border:
                return 1, max(1, min(length, border - at.iteration))
        rows = min(run.draws - at.draws, run.program.capacity(run.states[0], run.args, run.kwargs))
        if self._looking:
            rows = min(rows, self._next_look - at.draws)
        return max(1, min(rows, length // run.thinning)), run.thinning

    def _advance(self, rows: int, stride: int) -> list[ChunkCounts]:
        run, at = self._run, self._run.position
        keep = at.iteration >= run.warmup + run.skip
        started = time.monotonic()
        states, counts = [], []
        for chains, state in zip(run.groups, run.states, strict=True):
            with memory_told(chains):
                state, counted, fields = run.program.advance(state, rows, stride, run.args, run.kwargs)
                counts.append(jax.tree.map(np.asarray, counted))
                if keep:
                    fields = jax.tree.map(lambda leaf: run.program.by_chain(local_part(leaf)), fields)
            if keep:
                run.buffer.put(run.processes.own(chains), at.draws, rows, fields)
            states.append(state)
        run.states = states
        at.iteration += rows * stride
        at.evaluations += sum(int(np.sum(c.evaluations)) for c in counts)
        if keep:
            at.draws += rows
            at.divergences += sum(int(np.sum(c.diverging)) for c in counts)
            run.buffer.reach(at.draws)
        self._pace(time.monotonic() - started)
        return counts

    def _pace(self, seconds: float) -> None:
        if not self._timed:  # compiling was part of it
            self._timed = True
        elif seconds < _CHUNK_SECONDS / 2:
            self._length *= 2
        elif seconds > 2 * _CHUNK_SECONDS:
            self._length = max(1, self._length // 2)

    def _tell(self, counts: list[ChunkCounts], iterations: int) -> bool:
        """Call all callbacks; whether one of them wants the end."""
        if not self._callbacks:
            return False
        run, at = self._run, self._run.position
        seconds = max(self.seconds, 1e-6)  # a clock may be coarse
        pace = (at.iteration - self._first_iteration) / seconds
        progress = Progress(
            phase="warmup" if at.iteration <= run.warmup and at.draws == 0 else "sample",
            iteration=at.iteration,
            iterations=run.iterations,
            draws=at.draws,
            seconds=seconds,
            evaluations=at.evaluations,
            evaluations_per_second=(at.evaluations - self._before) / seconds,
            accept_prob=float(np.mean([np.mean(c.accept) for c in counts]) / iterations),
            divergences=at.divergences,
            ess=self.check and self.check.ess,
            rhat=self.check and self.check.rhat,
            seconds_left=(run.iterations - at.iteration) / pace,
        )
        answers = [callback(progress) for callback in self._callbacks]  # all are called
        return any(answer is True for answer in answers)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C, and SIGTERM with checkpoints, end the run after the chunk, not in the middle of it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum, frame):
            if signum == signal.SIGINT and signum in self._asked:
                self.at_once = True
                raise KeyboardInterrupt
            self._asked.add(signum)

        wanted = [signal.SIGINT] if self._files is None else [signal.SIGINT, signal.SIGTERM]
        before = {number: signal.signal(number, note) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def memory_told(chains: slice) -> Iterator[None]:
    """Say in words that these chains need more memory than the device has.

    Raises:
        MemoryError: a smaller batch is proposed.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        size = chains.stop - chains.start
        raise MemoryError(
            f"The device has too little memory for {size} chains at a time. "
            + (f"Try chain_batch={max(1, size // 2)}. " if size > 1 else "")
            + f"({str(error).splitlines()[0]})"
        ) from error
