"""Questions to the kernel of a run; `qdesampler.infer.model.kernel_base` describes them."""

from typing import Any, Literal

__all__ = ["kernel_answer", "kernel_facts"]

type Question = Literal["facts", "trial_report", "ladder_summary", "evidence_report"]


def kernel_answer(run: Any, question: Question) -> Any:
    """The answer of a run's kernel to one of its optional methods; None if it has no such method.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, or the last state of one. A state without its kernel answers
            by the methods of its `adapt_state`.
        question: name of the method.
    """
    kernel = getattr(run, "sampler", None)
    if kernel is None:
        method = getattr(getattr(run, "adapt_state", None), question, None)
        return None if method is None else method()
    method, state = getattr(kernel, question, None), getattr(run, "last_state", None)
    return None if method is None or state is None else method(state)


def kernel_facts(run: Any) -> dict[str, str | int | float]:
    """Facts about a run that its kernel reports as plain values; empty if it reports none."""
    return kernel_answer(run, "facts") or {}
