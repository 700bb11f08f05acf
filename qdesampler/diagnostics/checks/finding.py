"""One thing that speaks against a run, one row of the table of checks, and all of them together."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Check", "Diagnosis", "Finding", "Judged", "listed", "verdict"]


class Finding(NamedTuple):
    """One reason not to trust the draws yet, or a remark on how they were made.

    Attributes:
        code: "no_ground_state", "few_draws", "non_finite", "stuck", "constant", "modes", "divergences",
            "r_hat", "ess", "heavy_tail", "bfmi", "acceptance", "gradient", "undefined", "virial", "thinning",
            "funnel", "backend_temperature", "reference", or one of `ladder_findings`.
        message: what was found and what it means.
        advice: what to do.
        grave: False for a remark: the draws may be used all the same.
    """

    code: str
    message: str
    advice: str
    grave: bool = True

    def __str__(self) -> str:
        return f"{self.message} {self.advice}"


class Check(NamedTuple):
    """One row of the table: what was looked at, what was seen, what is asked.

    Attributes:
        name: what was looked at, in words.
        value: what was seen; the reason, where it could not be judged.
        limit: what is asked of it; empty for a fact that nothing is asked of.
        passed: None where it could not be judged, or where nothing is asked.
    """

    name: str
    value: str
    limit: str = ""
    passed: bool | None = None


class Judged(NamedTuple):
    """What one check has to say: its row, its finding, both or nothing."""

    check: Check | None = None
    finding: Finding | None = None


class Diagnosis(list[Finding]):
    """The findings of a run, gravest first, as a list; beside them every check that was made.

    Printed, it is the verdict, the findings with their advice and the table of checks.

    Args:
        findings: what speaks against the run.
        checks: the rows of the table.

    Attributes:
        checks: the rows of the table, failed ones too.
    """

    def __init__(self, findings: Iterable[Finding] = (), checks: Iterable[Check] = ()):
        super().__init__(sorted(findings, key=lambda finding: not finding.grave))
        self.checks = tuple(checks)

    @property
    def good(self) -> bool:
        """Whether the draws may be used: there is no grave finding."""
        return not any(finding.grave for finding in self)

    @property
    def verdict(self) -> str:
        """One line: may the draws be used?"""
        return verdict(self)

    def extended(self, findings: Iterable[Finding], checks: Iterable[Check] = ()) -> "Diagnosis":
        """This diagnosis with more findings and checks."""
        return Diagnosis([*self, *findings], [*self.checks, *checks])

    def __str__(self) -> str:
        lines = [self.verdict]
        lines += [
            textwrap.fill(str(finding), 100, initial_indent="- ", subsequent_indent="  ") for finding in self
        ]
        if self.checks:
            cells = [(MARKS[check.passed], check.name, check.value, check.limit) for check in self.checks]
            widths = [max(len(row[i]) for row in cells) for i in range(4)]
            lines.append("")
            lines += [
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                for row in cells
            ]
        return "\n".join(lines)


MARKS = {True: "ok", False: "BAD", None: "-"}


def verdict(findings: Sequence[Finding]) -> str:
    """One line: may the draws be used?"""
    grave = sum(finding.grave for finding in findings)
    remarks = len(findings) - grave
    if not grave:
        noted = f" ({remarks} remark{'s' if remarks > 1 else ''})" if remarks else ""
        return f"Good: nothing speaks against these draws{noted}."
    count = "one thing speaks" if grave == 1 else f"{grave} things speak"
    return f"Do not rely on these draws yet: {count} against them."


def listed(words: Sequence[str], limit: int = 5) -> str:
    """Words with commas and an "and", at most `limit` of them."""
    words = list(words)
    if len(words) > limit:
        words = [*words[: limit - 1], f"{len(words) - limit + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
