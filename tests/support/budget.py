"""What each test costs in CPU seconds, its child processes included; in CI a fast test has a budget.

CPU time, unlike wall time, hardly depends on what else the machine does.
"""

import os
from collections import defaultdict

import pytest

BUDGET = 60.0  # CPU seconds of one fast test, or of the fixtures that it is the first to ask for
SHOWN = 20


def spent() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Budget:
    """A pytest plugin: stamps each report with `cpu`, and lists the dearest tests and files at the end."""

    def __init__(self):
        self.before = spent()
        self.tests = defaultdict(float)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        now = spent()
        report.cpu, self.before = now - self.before, now
        if report.cpu > BUDGET and report.passed and "slow" not in item.keywords:
            reason = (
                f"{report.cpu:.0f} CPU seconds in {call.when}; a fast test has {BUDGET:.0f}: cheaper, or slow"
            )
            if os.environ.get("CI") == "true":
                report.outcome, report.longrepr = "failed", reason
        return report

    def pytest_runtest_logreport(self, report):
        self.tests[report.nodeid] += getattr(report, "cpu", 0.0)

    def pytest_terminal_summary(self, terminalreporter):
        files = defaultdict(float)
        for test, seconds in self.tests.items():
            files[test.split("::")[0]] += seconds
        for title, costs in (("tests", self.tests), ("files", files)):
            dearest = sorted(costs.items(), key=lambda item: -item[1])[:SHOWN]
            terminalreporter.write_sep("=", f"dearest {title} in CPU seconds, of {sum(costs.values()):.0f}")
            for name, seconds in dearest:
                over = "  above the budget" if title == "tests" and seconds > BUDGET else ""
                terminalreporter.write_line(f"{seconds:7.1f} {name}{over}")
