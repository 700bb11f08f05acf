"""The part of NumPyro's contract that kernels of continuous sites share: names, a target, and its hooks."""

import copy
from collections.abc import Callable, Sequence
from typing import Self

from numpyro.infer.mcmc import MCMCKernel

from qdesampler.infer.model.target import Target

__all__ = ["TargetKernel"]


class TargetKernel(MCMCKernel):
    """A kernel whose draws are `z` of a `KernelState`, distributed as `exp(-U(z))` of its target.

    A kernel adds `init`, `sample` and `refresh`, and sets `_target`. The object holds settings; all that
    changes is in the state.
    """

    _target: Target

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

    def postprocess_fn(self, model_args: Sequence, model_kwargs: dict | None) -> Callable:
        """`z -> constrained values and deterministic sites`."""
        return self._target.postprocess(model_args, model_kwargs)

    # ---- hooks for composite kernels -----------------------------------------------------------------------

    def get_potential_fn(self, model_args: Sequence = (), model_kwargs: dict | None = None) -> Callable:
        """The potential energy for these arguments.

        Raises:
            RuntimeError: for a model before `init`.
        """
        return self._target.potential(model_args, model_kwargs)

    def get_constrain_fn(
        self,
        model_args: Sequence = (),
        model_kwargs: dict | None = None,
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
