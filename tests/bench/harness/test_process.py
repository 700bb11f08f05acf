"""What benchmarks of a whole process share."""

import os
from pathlib import Path

import pytest

from qdesampler.bench.harness.process import in_its_own_process, peak_gibibytes, print_header
from qdesampler.bench.harness.record import Settings


def test_the_function_runs_elsewhere_and_its_errors_come_back():
    assert in_its_own_process(os.getpid) != os.getpid()
    assert in_its_own_process(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_its_own_process(divmod, 7, 0)


def test_the_peak_is_in_gibibytes():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now = int(lines["VmRSS"].split()[0]) / 2**20  # the kernel writes kilobytes
    peak = int(lines["VmHWM"].split()[0]) / 2**20
    assert 0.9 * now <= peak_gibibytes() <= 1.2 * peak


def test_the_header_names_the_settings_only_if_there_are_any(capsys):
    print_header()
    assert "settings" not in capsys.readouterr().out
    print_header(Settings(3, 20, 50))
    assert "- settings: 3 vectorized chains, 20 warm-up and 50 draws each" in capsys.readouterr().out
