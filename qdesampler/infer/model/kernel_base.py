"""The part of NumPyro's contract that kernels of continuous sites share: names, a target, and its hooks.

Diagnostics know no kernel. They ask the kernel of a run for what only it knows, by four optional methods
that take the last state of the run: `facts`, `trial_report`, `ladder_summary` and `evidence_report`. The
types of the answers are in `qdesampler.infer.model.kernel_reports`. `TargetKernel` answers all of them with
nothing; a kernel overrides those that it can answer. Kernels that do not derive from `TargetKernel` may have
these methods as well. A state that is used without its kernel may have methods of the same names, without
arguments, in its `adapt_state`.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

from numpyro.infer.mcmc import MCMCKernel

from qdesampler.infer.model.kernel_reports import EvidenceReport, LadderSummary, TrialReport
from qdesampler.infer.model.target import Target

__all__ = ["Kwargs", "TargetKernel"]

Kwargs = dict[str, Any] | None  # keyword arguments of a model


class TargetKernel(MCMCKernel):
    """A kernel whose draws are `z` of a `KernelState`, distributed as `exp(-U(z))` of its target.

    A kernel adds `init`, `sample` and `refresh`, and sets `_target`. The object holds settings; all that
    changes is in the state.
    """

    _target: Target
    _report_warmup: Callable[[str], None] | None = None

    @property
    def sample_field(self) -> str:
        """The field of the state that holds the draw."""
        return "z"

    @property
    def default_fields(self) -> tuple[str, ...]:
        """The fields that `MCMC` collects by default."""
        return (
            "z",
            "diverging",
            "energy",
            "potential_energy",
            "accept_prob",
            "num_evals",
            "adapt_state.step_size",
        )

    @property
    def _sample_fn(self) -> Callable | None:
        """NumPyro reads this name: None means that `init` has to run before `sample` can."""
        return self.sample if self._target.is_ready else None

    @property
    def model(self) -> Callable | None:
        """The NumPyro model, or None."""
        return self._target.model

    def postprocess_fn(self, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None) -> Callable:
        """`z -> constrained values and deterministic sites`."""
        return self._target.postprocess(model_args, model_kwargs)

    def watch_warmup(self, report: Callable[[str], None] | None) -> None:
        """Have the warm-up before the first iteration say in words how far it is; None: say nothing."""
        self._report_warmup = report

    # ---- what diagnostics ask about a finished run ---------------------------------------------------------

    def facts(self, last_state: Any) -> dict[str, str | int | float]:
        """Facts about a run as plain values, which become attributes of its tree; none by default."""
        return {}

    def trial_report(self, last_state: Any) -> TrialReport | None:
        """The density of global moves, for a plot of it beside the draws; None without such moves."""
        return None

    def ladder_summary(self, last_state: Any) -> LadderSummary | None:
        """The numbers of a ladder of replicas; None without a ladder."""
        return None

    def evidence_report(self, last_state: Any) -> EvidenceReport | None:
        """The evidence and the estimates that support it; None if the kernel does not estimate it."""
        return None

    # ---- hooks for composite kernels -----------------------------------------------------------------------

    def get_potential_fn(
        self, model_args: Sequence[Any] = (), model_kwargs: dict[str, Any] | None = None
    ) -> Callable:
        """The potential energy for these arguments.

        Raises:
            RuntimeError: for a model before `init`.
        """
        return self._target.potential(model_args, model_kwargs)

    def get_constrain_fn(
        self,
        model_args: Sequence[Any] = (),
        model_kwargs: dict[str, Any] | None = None,
        *,
        return_deterministic: bool = False,
    ) -> Callable:
        """`z -> constrained values`, without running the model where supports are static.

        Raises:
            RuntimeError: for a model before `init`.
        """
        return self._target.constrain(model_args, model_kwargs, return_deterministic=return_deterministic)

    def __copy__(self) -> Self:
        """A kernel with its own target, because a trace made by one kernel must not reach the other."""
        twin = object.__new__(type(self))
        vars(twin).update(self.__getstate__())  # pyright: ignore[reportArgumentType, reportCallIssue]
        twin._target = copy.copy(self._target)
        return twin

    def wrap_model(self, wrapper: Callable) -> Self:
        """A copy of this kernel bound to `wrapper(model)`, to be initialised anew.

        Raises:
            ValueError: if the kernel has no model.
        """
        if self.model is None:
            raise ValueError("`wrap_model` needs a kernel built from a model; this one has none.")
        kernel = copy.copy(self)
        kernel._target = self._target.rebound(wrapper(self.model))
        return kernel
