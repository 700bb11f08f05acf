"""`MCMC`: the interface of NumPyro's `MCMC` with a loop of its own, for long runs."""

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpyro.infer.mcmc import MCMCKernel

from qdesampler.driver.arguments import (
    as_callbacks,
    as_folder,
    check_field_names,
    check_positive,
    check_sampler,
)
from qdesampler.driver.checkpoint import CheckpointError
from qdesampler.driver.draw_buffer import DrawBuffer
from qdesampler.driver.draw_store import DrawStore, StoredFields, refuse_if_there, require_zarr
from qdesampler.driver.files import RunFiles, begun, restored
from qdesampler.driver.groups import ChainGroups, key_text, keys_of_text, mesh_of
from qdesampler.driver.host_draws import host_draws
from qdesampler.driver.loop import Position, RunInProgress, RunLoop, explain_out_of_memory
from qdesampler.driver.program import ChainProgram, CollectedFields, fresh_copy
from qdesampler.driver.program_cache import ProgramCache
from qdesampler.driver.progress import Progress, ProgressBar, RunReport, shown_warmup
from qdesampler.driver.results import RunResults
from qdesampler.driver.run_warnings import warn_of_run
from qdesampler.driver.stopping import Until
from qdesampler.infer.model.fingerprint import (
    data_lines,
    describe,
    differences,
    kernel_lines,
    run_name,
    version_lines,
)

__all__ = ["MCMC"]

_FEW = 2000  # scalars up to which convergence is checked only for the progress bar


class MCMC(RunResults):
    """Runs any NumPyro kernel; a subclass of `numpyro.infer.MCMC` that takes its place.

    Programs are compiled once and kept, so that a second run of the same shapes compiles nothing. Draws are
    copied to the host as they are made; the device holds one chunk. A run can be checkpointed and resumed bit
    for bit, also in the warm-up. It can end when every parameter has enough effective draws, report its
    progress, and be interrupted without loss. Keys are split as NumPyro's loop splits them, so the draws are
    those of NumPyro's loop, apart from rounding errors and their growth along chaotic trajectories.

    Draws are NumPy arrays. `num_samples` is the largest number of draws; after a run that ended early it is
    the number drawn, until the next run.

    Args:
        sampler: a NumPyro kernel.
        num_warmup: iterations before the first draw of each chain.
        num_samples: most iterations after the warm-up.
        num_chains: number of chains.
        thinning: number of iterations for each kept draw.
        postprocess_fn: maps one position to what is kept, instead of the kernel's own function.
        chain_method: "vectorized" (the kernel takes a batch of keys: QDE, AnnealedQDE, NUTS, HMC, ...),
            "sequential", "parallel" (one device for each chain), or a transform like `jax.vmap`.
        progress_bar: whether to show one bar for all chains.
        progress_rate: accepted and not used, because the bar follows the clock.
        jit_model_args: arrays among the model's arguments are arguments of the programs, so that new data of
            the same shapes compile nothing. The model must then not compute Python numbers from them.
        chain_batch: number of vectorized chains at a time, if memory does not hold all of them; each batch
            adapts by itself, and `num_chains` is a multiple of it.
        devices: the devices for vectorized chains: a list, a number, or "all". A kernel that pools chains
            pools those of all devices. If the devices belong to several processes (`jax.distributed`), each
            process keeps the draws of its own chains (a part of each batch), and `gathered` joins them.
        checkpoint: a folder for checkpoints (`qdesampler.driver.checkpoint` writes the files).
        every: iterations between checkpoints.
        store: a zarr store for the draws (extra `store`): then memory holds only one or two chunks.
            `xarray.open_datatree(store, engine="zarr", consolidated=False)` reads it as ArviZ's tree, which
            `to_netcdf("draws.nc", engine="h5netcdf")` writes to a netCDF file. `get_samples` reads all draws.
        until: criteria that end a run before `num_samples`: an `Until`, or a dictionary with some of `ess`,
            `rhat`, `max_time`, `max_evals`.
        callbacks: functions called with a `Progress` after every chunk (about half a second); one that
            returns True ends the run. With checkpoints, draws reported at a multiple of `every` iterations
            are on the disk.

    Attributes:
        rng_key: the key that the last `run` was given, also after `resume`; None before a run, and after the
            resumption of one whose checkpoint does not have it.

    Raises:
        ValueError: a number out of its range, or arguments that exclude one another.
        TypeError: an argument of a wrong type.
        ImportError: `store` is given and zarr is not installed.
    """

    def __init__(
        self,
        sampler: MCMCKernel,
        *,
        num_warmup: int,
        num_samples: int,
        num_chains: int = 1,
        thinning: int = 1,
        postprocess_fn: Callable | None = None,
        chain_method: str | Callable = "vectorized",
        progress_bar: bool = True,
        progress_rate: int | None = None,
        jit_model_args: bool = False,
        chain_batch: int | None = None,
        devices: int | str | Sequence[Any] | None = None,
        checkpoint: str | Path | None = None,
        every: int = 500,
        store: str | Path | None = None,
        until: Until | Mapping[str, Any] | None = None,
        callbacks: Sequence[Callable[[Progress], Any]] = (),
    ):
        check_sampler(sampler)
        check_positive(num_chains=num_chains, every=every)
        super().__init__(
            sampler,
            num_warmup=num_warmup,
            num_samples=num_samples,
            num_chains=num_chains,
            thinning=thinning,
            postprocess_fn=postprocess_fn,
            chain_method=chain_method,  # pyright: ignore[reportArgumentType]: callables are allowed there
            progress_bar=False,
            progress_rate=progress_rate,
            jit_model_args=jit_model_args,
        )
        self.progress_bar: bool = progress_bar and not {"CI", "PYTEST_XDIST_WORKER"} & set(os.environ)
        if chain_batch is not None:
            check_positive(chain_batch=chain_batch)
            if self.chain_method != "vectorized" or num_chains % chain_batch:
                raise ValueError(
                    f"chain_batch={chain_batch} with num_chains={num_chains}, "
                    f"chain_method={chain_method!r}; expected a divisor of the number of vectorized chains."
                )
        self.chain_batch = chain_batch
        mesh = mesh_of(devices, chain_batch or num_chains, self.chain_method)
        self._groups = ChainGroups(num_chains, self.chain_method, chain_batch, mesh)
        self._files = None if checkpoint is None else self._run_files(checkpoint)
        self._every = every
        self._store = None if store is None else self._groups.processes.own_folder(as_folder("store", store))
        if store is not None:
            require_zarr()
        self._until = Until.of(until)
        self._callbacks = as_callbacks(callbacks)
        self._pristine = fresh_copy(sampler)
        self._kernel_lines = kernel_lines(self._pristine)
        self._most = num_samples
        self._programs = ProgramCache(
            sampler,
            self._pristine,
            self._groups,
            method=self.chain_method,
            num_warmup=num_warmup,
            postprocess=postprocess_fn,
            trace_args=jit_model_args,
        )
        self.rng_key: Any = None
        self._own_chains = num_chains // self._groups.processes.count
        self._last_groups: list | None = None
        self._collected: tuple[str, ...] = ()

    def run(
        self, rng_key: Any, *args: Any, extra_fields: Any = (), init_params: Any = None, **kwargs: Any
    ) -> None:
        """Warm up and draw.

        Args:
            rng_key: one key, or one key for each chain.
            *args: the model's arguments.
            extra_fields: fields of the state to collect in addition to the kernel's `default_fields`;
                "~z.site" leaves a site out.
            init_params: unconstrained start; with several chains it has a leading axis of `num_chains`.
            **kwargs: the model's keyword arguments.

        Raises:
            ValueError: arguments that the kernel refuses, or a bad `init_params`.
            RuntimeError: there is no valid start.
            CheckpointError: the folder already holds a run, or cannot be written; the draws are kept.
            StoreError: the store already holds draws, or cannot be written.
            MemoryError: the device has too little memory; the message proposes a smaller batch.
            LostProcessError: another process of the run has ended or cannot be reached.
            KeyboardInterrupt: Ctrl-C in the warm-up. Later Ctrl-C ends the run after the chunk and keeps its
                draws, and a second Ctrl-C ends it immediately.
        """
        self.num_samples: int = self._most
        if self._files is not None:
            self._files.refuse_if_used()
        if self._store is not None:
            refuse_if_there(self._store)
        self._args, self._kwargs = args, kwargs
        fields = self._fields(extra_fields)
        groups = self._groups
        keys, starts = groups.keys(rng_key), groups.starts(init_params)
        program = self._program(fields)
        self.rng_key = rng_key
        header = {"run": self._lines(fields), "fields": list(fields), "key": key_text(keys)}
        header["given key"] = key_text(rng_key)
        if self._warmup_state is None:
            with begun(self._files, header):
                states = self._begin(program, keys, starts)
        else:
            self._set_collection_params(0, self.num_samples, self.num_samples, "sample")
            states = self._continued(program, keys, starts)
        self._finish(program, states, fields, header, Position(), ())

    def resume(self, checkpoint: str | Path, *args: Any, init_params: Any = None, **kwargs: Any) -> None:
        """Continue a run from its checkpoints; the draws are bit for bit those of a run without a break.

        Build the object as for the first call; `num_samples` may be larger, and `until`, `callbacks` and
        `every` may differ. Further checkpoints go to the same folder, and a store is written anew from the
        draws in the checkpoints.

        Args:
            checkpoint: the folder of the run.
            *args: the model's arguments, as in `run`.
            init_params: as in `run`; required for a kernel with a potential (only its structure is used).
            **kwargs: the model's keyword arguments, as in `run`.

        Raises:
            CheckpointError: there is nothing to resume, a file is damaged, or the checkpoint is that of
                another model, data, kernel, setting or version; the message lists every difference.
            StoreError: the store holds anything but the draws of this run.
        """
        self.num_samples = self._most
        files = self._run_files(checkpoint)
        header, arrays = files.latest()
        self._args, self._kwargs = args, kwargs
        fields = CollectedFields(*(tuple(names) for names in header["fields"]))
        differ = differences(header["run"], self._lines(fields))
        if differ:
            raise CheckpointError(f"{checkpoint} is of another run: " + "; ".join(differ) + ".")
        program, groups = self._program(fields), self._groups
        keys, starts = keys_of_text(header["key"]), groups.starts(init_params)
        self.rng_key = keys_of_text(header["given key"]) if "given key" in header else None
        if "position" not in header:  # the process died before the first iteration
            self._files = files
            self._finish(program, self._begin(program, keys, starts), fields, header, Position(), ())
            return
        states = []
        for index, chains in enumerate(groups.slices):
            like = program.like(groups.part(keys, chains), groups.part(starts, chains), args, kwargs)
            prefix = f"{index}|"
            own = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
            states.append(groups.placed(restored(like, own)))
        position = Position(**header.pop("position"))
        if self._store is not None:
            refuse_if_there(self._store, run_name(header))
        self._files = files
        self._finish(program, states, fields, header, position, files.draws(position.draws))

    # ---- identity of a run -----------------------------------------------------------------------------

    def _run_files(self, checkpoint) -> RunFiles:
        return RunFiles(as_folder("checkpoint", checkpoint), self._groups.processes)

    def _fields(self, extra_fields) -> CollectedFields:
        """The collected fields, the sample first."""
        check_field_names(extra_fields)
        without = f"~{self._sample_field}."
        names = dict.fromkeys((self._sample_field, *self._default_fields, *extra_fields))
        removed = tuple(name.removeprefix(without) for name in names if name.startswith(without))
        return CollectedFields(tuple(name for name in names if not name.startswith(without)), removed)

    def _program(self, fields: CollectedFields) -> ChainProgram:
        return self._programs.get(self._args, self._kwargs, fields, max(1, self._most // self.thinning))

    def _lines(self, fields: CollectedFields) -> dict[str, str]:
        """Everything that must be equal for a resumed run to make the same draws."""
        names = ("num_warmup", "num_chains", "thinning", "chain_batch", "postprocess_fn")
        settings = {name: getattr(self, name) for name in names}
        settings |= {"fields": fields.names, "sites left out": fields.removed}
        settings["skipped iterations"] = self.num_samples % self.thinning
        if self._groups.processes.count > 1:
            settings["processes"] = self._groups.processes.count
        lines = {name: describe(value) for name, value in settings.items()}
        method = self.chain_method if isinstance(self.chain_method, str) else describe(self.chain_method)
        data = data_lines(self._args, self._kwargs)
        return {**self._kernel_lines, **data, **lines, "chain_method": method, **version_lines()}

    def _begin(self, program, keys, starts) -> list[Any]:
        """The states of all groups before the first iteration."""
        groups, states = self._groups, []
        shown = self.progress_bar and groups.processes.index == 0
        with shown_warmup(program.kernel, shown=shown):
            for chains in groups.slices:
                with explain_out_of_memory(chains):
                    share = groups.part(keys, chains), groups.part(starts, chains)
                    states.append(program.init(*share, self._args, self._kwargs))
        return states

    def _continued(self, program, keys, starts) -> list[Any]:
        """The states of `post_warmup_state`, with the new keys."""
        groups = self._groups
        if self._warmup_state is self._last_state and self._last_groups is not None:
            states = self._last_groups
        else:
            states = groups.parted(self._warmup_state)
        program.prepare(
            groups.part(keys, groups.slices[0]),
            groups.part(starts, groups.slices[0]),
            self._args,
            self._kwargs,
        )
        ensemble = self.sampler.is_ensemble_kernel
        return [
            state._replace(rng_key=keys[0] if ensemble else groups.placed(groups.part(keys, chains)))
            for state, chains in zip(states, groups.slices, strict=True)
        ]

    # ---- one run -------------------------------------------------------------------------------------------

    def _finish(self, program, states, fields, header, position, pieces):
        lower, upper = self._collection_params["lower"], self._collection_params["upper"]
        draws, skip = divmod(upper - lower, self.thinning)
        # Decided once by counts, and written down, so that a resumed run samples as it began.
        on_host = []
        if header.get("on_host") is not False:
            iterations = 0 if header.get("on_host") else upper
            on_host = host_draws(program, states, iterations, self._args, self._kwargs)
        header["on_host"] = bool(on_host)
        run = RunInProgress(
            program,
            self._args,
            self._kwargs,
            states,
            self._groups.slices,
            lower,
            skip,
            self.thinning,
            draws,
            self._buffer(program, states[0], fields, header, max(draws, position.draws)),
            self._groups.processes,
            position,
            on_host,
        )
        like = program.fields_like(states[0], self._args, self._kwargs) if position.draws else None
        for first, arrays in pieces:
            run.buffer.put_named(first, arrays, like)
        bar = ProgressBar(run.iterations) if self.progress_bar and run.processes.index == 0 else None
        loop = RunLoop(
            run,
            until=self._until,
            callbacks=(*self._callbacks, *([bar] if bar else [])),
            check_always=self.progress_bar and program.scalars(states[0], self._args, self._kwargs) <= _FEW,
            files=self._files,
            header=header,
            every=self._every,
        )
        ended_by = "error"
        try:
            ended_by = loop.go()
        finally:
            if bar:
                bar.close(ended_by)
            self._keep(run, fields.names, together=ended_by != "error" and not loop.at_once)
            at = run.position
            self._report = RunReport(
                ended_by, at.draws, at.evaluations, at.divergences, at.seconds + loop.seconds, loop.check
            )
            self._set_collection_params(upper=self.num_warmup + self._most)
            run.buffer.close()
        warn_of_run(run, loop, self._until, ended_by)

    def _buffer(self, program, state, fields, header, draws):
        if self._store is None or self._collection_params["phase"] == "warmup":
            return DrawBuffer(self._own_chains, draws)
        facts = {name: getattr(self, name) for name in ("num_warmup", "num_chains", "thinning")}
        facts |= {"run": run_name(header), "version": version("qdesampler")}
        rows = program.capacity(state, self._args, self._kwargs)
        return DrawStore(self._store, self._own_chains, rows, fields.names, facts)

    def _keep(self, run, names, *, together):
        if isinstance(run.buffer, DrawStore) and run.buffer.filled:
            self._states = StoredFields(run.buffer, names)
        else:
            collected = run.buffer.fields()
            if collected is None:
                collected = jax.tree.map(
                    lambda leaf: np.empty((self._own_chains, 0, *leaf.shape[2:]), leaf.dtype),
                    run.program.fields_like(run.states[0], self._args, self._kwargs),
                )
            self._states = dict(zip(names, collected, strict=True))
        self._states_flat = None
        self._last_groups = run.states
        # Joining batches needs communication of all processes, and after an error some may not get here.
        without_others = run.processes.count == 1 or len(run.states) == 1
        self._last_state = self._groups.joined(run.states) if without_others or together else None
        if run.position.draws and self._collection_params["phase"] != "warmup":
            self.num_samples = run.position.draws * self.thinning
