"""One thing that speaks against a run."""

from typing import NamedTuple

__all__ = ["Finding"]


class Finding(NamedTuple):
    """One reason not to trust the draws yet.

    Attributes:
        code: "no_ground_state", "few_draws", "non_finite", "stuck", "modes", "divergences", "r_hat", "ess",
            or one of `ladder_findings`.
        message: what was found and what it means.
        advice: what to do.
    """

    code: str
    message: str
    advice: str

    def __str__(self) -> str:
        return f"{self.message} {self.advice}"
