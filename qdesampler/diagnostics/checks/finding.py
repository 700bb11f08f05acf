"""Findings against a run, rows of the table of checks, and the diagnosis that holds both."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["DOUBLE", "Check", "Diagnosis", "Finding", "Judged", "in_html", "listed", "not_judged", "verdict"]

DOUBLE = '`jax.config.update("jax_enable_x64", True)` before anything else'  # the advice of double precision


class Finding(NamedTuple):
    """One reason not to trust the draws yet, or a remark on how they were made.

    Attributes:
        code: "no_ground_state", "few_draws", "non_finite", "stuck", "constant", "modes", "step_size",
            "edges", "divergences", "r_hat", "ess", "heavy_tail", "bfmi", "acceptance", "gradient",
            "undefined", "virial", "thinning", "funnel", "backend_temperature", "pool", "reference", or a code
            of `ladder_findings`.
        message: what was found and what it means.
        advice: what to do.
        grave: whether the draws should not be used; False for a remark.
    """

    code: str
    message: str
    advice: str
    grave: bool = True

    def __str__(self) -> str:
        return f"{self.message} {self.advice}"


class Check(NamedTuple):
    """One row of the table of checks.

    Attributes:
        name: the subject of the check in words.
        value: the result, or the reason why the check could not be made.
        limit: the required value; empty for a fact without a requirement.
        passed: whether the check passed; None if it could not be made, or for a fact without a requirement.
    """

    name: str
    value: str
    limit: str = ""
    passed: bool | None = None


class Judged(NamedTuple):
    """The result of one check: a row, a finding, both or neither."""

    check: Check | None = None
    finding: Finding | None = None


# From causes to their consequences: what is wrong with the model comes before what its draws suffer from.
_ORDER = (
    "few_draws",
    "non_finite",
    "undefined",
    "gradient",
    "no_ground_state",
    "stuck",
    "constant",
    "reference",
    "modes",
    "missed_mode",
    "funnel",
    "step_size",
    "divergences",
    "bfmi",
    "acceptance",
    "virial",
    "r_hat",
    "ess",
)
_SHORT = {"r_hat", "ess"}  # what more draws alone may mend


def _place(finding: Finding) -> tuple[bool, int]:
    """Grave findings first, then causes before consequences; codes without a place between the two."""
    known = finding.code in _ORDER
    return not finding.grave, _ORDER.index(finding.code) if known else _ORDER.index("r_hat")


class Diagnosis(list[Finding]):
    """The findings of a run as a list and all checks that were made.

    Grave findings come first, and of these causes before consequences.

    When printed, it shows the verdict, the findings with their advice, and the table of checks.

    Args:
        findings: reasons not to trust the run, and remarks.
        checks: the rows of the table.

    Attributes:
        checks: the rows of the table, including those of failed checks.
    """

    def __init__(self, findings: Iterable[Finding] = (), checks: Iterable[Check] = ()):
        super().__init__(sorted(findings, key=_place))
        self.checks: tuple[Check, ...] = tuple(checks)

    @property
    def good(self) -> bool:
        """Whether the draws may be used: there is no grave finding."""
        return not any(finding.grave for finding in self)

    @property
    def verdict(self) -> str:
        """One line that says whether the draws may be used."""
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

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        items = "".join(f"<li>{in_html(finding.message)} {in_html(finding.advice)}</li>" for finding in self)
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align: left">{escape(cell)}</td>'
                for cell in (MARKS[check.passed], check.name, check.value, check.limit)
            )
            + "</tr>"
            for check in self.checks
        )
        head = "<tr><th></th><th>Check</th><th>Result</th><th>Required</th></tr>"
        table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>" if rows else ""
        reasons = f"<ul>{items}</ul>" if items else ""
        return f"<p><strong>{escape(self.verdict)}</strong></p>{reasons}{table}"


MARKS: dict[bool | None, str] = {
    True: "ok",
    False: "BAD",
    None: "-",
}  # of passed, failed and other checks


def verdict(findings: Sequence[Finding]) -> str:
    """One line that says whether the draws may be used, from the findings."""
    grave = sum(finding.grave for finding in findings)
    remarks = len(findings) - grave
    if not grave:
        noted = f" ({remarks} remark{'s' if remarks > 1 else ''})" if remarks else ""
        return f"Good: nothing speaks against these draws{noted}."
    if {finding.code for finding in findings if finding.grave} <= _SHORT:
        return "Not enough draws yet: nothing else speaks against them."
    count = "one thing speaks" if grave == 1 else f"{grave} things speak"
    return f"Do not rely on these draws yet: {count} against them."


def in_html(text: str) -> str:
    """A message or advice for HTML: what is between backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def not_judged(error: Exception) -> str:
    """The value of a check that could not be made, with the reason."""
    reason = " ".join(str(error).split())
    return f"not judged: {textwrap.shorten(reason, 90, placeholder=' ...')}"


def listed(words: Sequence[str], limit: int = 5) -> str:
    """At most `limit` words, joined by commas and an "and"."""
    words = list(words)
    if len(words) > limit:
        words = [*words[: limit - 1], f"{len(words) - limit + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
