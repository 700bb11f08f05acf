"""The loop of a run: chunks of iterations, and what is done between them."""

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
from qdesampler.driver.host_draws import HostDraws
from qdesampler.driver.processes import Processes, local_part
from qdesampler.driver.program import ChainProgram, ChunkCounts
from qdesampler.driver.progress import Progress
from qdesampler.driver.stopping import ConvergenceCheck, Until, check_convergence, draws_at_checks

__all__ = ["Position", "RunInProgress", "RunLoop", "explain_out_of_memory"]

_FIRST_CHUNK = 16  # iterations of the first chunk
_CHUNK_SECONDS = 0.5  # seconds that a chunk should last
_REASONS = ("", "max_evals", "max_time", "callback", "interrupt", "SIGTERM")  # the strongest last


@dataclass
class Position:
    """How far a run has come; a checkpoint holds all of it.

    Attributes:
        iteration: iterations of each chain so far.
        draws: kept draws of each chain so far.
        evaluations: log-density evaluations of all chains so far.
        divergences: divergent iterations after the warm-up.
        seconds: wall time of earlier calls.
    """

    iteration: int = 0
    draws: int = 0
    evaluations: int = 0
    divergences: int = 0
    seconds: float = 0.0


@dataclass
class RunInProgress:
    """The work of a run, its present states and the draws so far.

    Attributes:
        program: the compiled programs.
        args: the model's arguments.
        kwargs: the model's keyword arguments.
        states: one state for each group of chains, replaced after each chunk.
        groups: the chains of each group.
        warmup: iterations before the first that can be collected.
        skip: iterations after the warm-up that do not fill a whole window of thinning.
        thinning: iterations for each kept draw.
        draws: most kept draws of each chain.
        buffer: the draws of this process.
        processes: the processes that run together.
        position: how far the run has come.
        on_host: draws on the host, for each group; empty where programs make the draws.
    """

    program: ChainProgram
    args: Sequence[Any]
    kwargs: dict[str, Any]
    states: list[Any]
    groups: list[slice]
    warmup: int
    skip: int
    thinning: int
    draws: int
    buffer: DrawBuffer | DrawStore
    processes: Processes
    position: Position = field(default_factory=Position)
    on_host: list[HostDraws] = field(default_factory=list)

    @property
    def iterations(self) -> int:
        """Iterations of each chain in total."""
        return self.warmup + self.skip + self.thinning * self.draws


class RunLoop:
    """Continues a run to its end, chunk by chunk.

    The division into chunks does not change the draws. The length of a chunk follows the clock, and a chunk
    ends where a checkpoint or a convergence check is due.

    Args:
        run: the run; the loop updates its states, buffer and position.
        until: the criteria that end the run early, or None.
        callbacks: functions called with a `Progress` after each chunk; the run ends when one returns True.
        check_always: whether to check convergence even if `until` does not need it.
        files: the files of the checkpoints, or None.
        header: the header of a checkpoint, without the position.
        every: iterations between checkpoints.
    """

    def __init__(
        self,
        run: RunInProgress,
        *,
        until: Until | None,
        callbacks: Sequence[Callable[[Progress], Any]],
        check_always: bool,
        files: RunFiles | None,
        header: dict[str, Any],
        every: int,
    ):
        self._run = run
        self._until = until
        self._callbacks = callbacks
        self._checking = check_always or (until is not None and until.needs_draws)
        self._files = files
        self._header = header
        self._every = every
        self._on_disk = run.position.draws
        self._saved_at = run.position.iteration
        self._length = _FIRST_CHUNK
        self._timed = False
        self._signals_received: set[int] = set()
        self.at_once = False
        self.check: ConvergenceCheck | None = None

    def go(self) -> str:
        """Continue until the run ends.

        Returns:
            "num_samples", "until", "max_time", "max_evals", "callback" or "interrupt".

        Raises:
            CheckpointError: a checkpoint could not be written; the run's buffer and states are as they were.
            MemoryError: the device has too little memory.
            LostProcessError: another process of the run has ended or cannot be reached.
            KeyboardInterrupt: Ctrl-C before the first draw; with `files`, after the checkpoint was written.
                Ctrl-C ends the run after the present chunk, a second Ctrl-C immediately.
            SystemExit: the process was asked to end (SIGTERM, with `files`), after the checkpoint was
                written.
        """
        self._started_at = time.monotonic()
        self._earlier_evaluations = self._run.position.evaluations
        first = self._run.position.iteration
        self._first_iteration = first
        self._checks = draws_at_checks()
        self._next_check = next(draws for draws in self._checks if draws > self._run.position.draws)
        if self._files is not None and self._run.position.iteration == 0:
            self.save()
        with self._deferred_signals():
            try:
                with self._run.processes.watched(self._what_is_kept):
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
        return time.monotonic() - self._started_at

    def save(self) -> None:
        """Write a checkpoint: the draws since the last one, and the state."""
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

    def _what_is_kept(self) -> str:
        if self._files is None:
            return "The draws of this process are kept; there are no checkpoints to resume from."
        return f"Start all again and `resume`: iteration {self._saved_at} is in {self._files.folder.parent}."

    def _loop(self) -> str:
        run, at = self._run, self._run.position
        while at.iteration < run.iterations:
            with run.processes.patience(self._what_is_kept) if self._timed else nullcontext():
                reason = self._run_chunk()
            if reason:
                return reason
        return "num_samples"

    def _run_chunk(self) -> str:
        """Run one chunk and what follows it; the reason to end the run, or an empty string."""
        run, at = self._run, self._run.position
        rows, stride = self._next_chunk()
        counts = self._advance(rows, stride)
        if self._files is not None and at.iteration - self._saved_at >= self._every:
            self.save()
        if self._checking and at.draws >= self._next_check:
            self.check = check_convergence(run.buffer.sample(), at.draws, run.processes.gathered)
            self._next_check = next(draws for draws in self._checks if draws > at.draws)
            if self._until is not None and self._until.needs_draws and self._until.is_met(self.check):
                self._report_progress(counts, rows * stride)
                return "until"
        own = self._reason(end_requested=self._report_progress(counts, rows * stride))
        reason, self._length = run.processes.agreed(_REASONS, own, self._length)
        return reason

    def _reason(self, *, end_requested: bool) -> str:
        """The reason for which this process would end the run now, or an empty string."""
        if signal.SIGTERM in self._signals_received:
            return "SIGTERM"
        if self._signals_received:
            return "interrupt"
        if end_requested:
            return "callback"
        if self._until is not None and self.seconds > (self._until.max_time or np.inf):
            return "max_time"
        if self._until is not None and self._run.position.evaluations >= (self._until.max_evals or np.inf):
            return "max_evals"
        return ""

    def _next_chunk(self) -> tuple[int, int]:
        """Rows of the next chunk and iterations for each row; a chunk lies in one phase of the run."""
        run, at = self._run, self._run.position
        length = self._length
        if self._files is not None:
            length = min(length, self._saved_at + self._every - at.iteration)
        for border in (run.warmup, run.warmup + run.skip):
            if at.iteration < border:
                return 1, max(1, min(length, border - at.iteration))
        rows = min(run.draws - at.draws, run.program.capacity(run.states[0], run.args, run.kwargs))
        if self._checking:
            rows = min(rows, self._next_check - at.draws)
        return max(1, min(rows, length // run.thinning)), run.thinning

    def _advance(self, rows: int, stride: int) -> list[ChunkCounts]:
        run, at = self._run, self._run.position
        keep = at.iteration >= run.warmup + run.skip
        started = time.monotonic()
        states, counts = [], []
        for group, (chains, state) in enumerate(zip(run.groups, run.states, strict=True)):
            with explain_out_of_memory(chains):
                if run.on_host:
                    advanced = run.on_host[group].advance(state, rows, stride, keep=keep)
                else:
                    advanced = run.program.advance(state, rows, stride, run.args, run.kwargs)
                state, counted, fields = advanced
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
        self._adjust_length(time.monotonic() - started)
        return counts

    def _adjust_length(self, seconds: float) -> None:
        if not self._timed:  # the first chunk includes the time of compiling
            self._timed = True
        elif seconds < _CHUNK_SECONDS / 2:
            self._length *= 2
        elif seconds > 2 * _CHUNK_SECONDS:
            self._length = max(1, self._length // 2)

    def _report_progress(self, counts: list[ChunkCounts], iterations: int) -> bool:
        """Call all callbacks; returns whether one of them asks to end the run."""
        if not self._callbacks:
            return False
        run, at = self._run, self._run.position
        seconds = max(self.seconds, 1e-6)  # a coarse clock may show no time at all
        pace = (at.iteration - self._first_iteration) / seconds
        progress = Progress(
            phase="warmup" if at.iteration <= run.warmup and at.draws == 0 else "sample",
            iteration=at.iteration,
            iterations=run.iterations,
            draws=at.draws,
            seconds=seconds,
            evaluations=at.evaluations,
            evaluations_per_second=(at.evaluations - self._earlier_evaluations) / seconds,
            accept_prob=float(np.mean([np.mean(c.accept) for c in counts]) / iterations),
            divergences=at.divergences,
            ess=self.check and self.check.ess,
            rhat=self.check and self.check.rhat,
            seconds_left=(run.iterations - at.iteration) / pace,
        )
        answers = [callback(progress) for callback in self._callbacks]  # every callback is called
        return any(answer is True for answer in answers)

    @contextmanager
    def _deferred_signals(self) -> Iterator[None]:
        """Let Ctrl-C, and with checkpoints SIGTERM, end the run after a chunk and not in the middle of it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum, frame):
            if signum == signal.SIGINT and signum in self._signals_received:
                self.at_once = True
                raise KeyboardInterrupt
            self._signals_received.add(signum)

        handled = [signal.SIGINT] if self._files is None else [signal.SIGINT, signal.SIGTERM]
        before = {number: signal.signal(number, note) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def explain_out_of_memory(chains: slice) -> Iterator[None]:
    """Turn JAX's error for lack of device memory into one that proposes a smaller batch of chains.

    Raises:
        MemoryError: these chains need more memory than the device has.
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
