"""The annealers' benchmark at a small size: tables are made, and gaps are those of stochastic matrices."""

import numpy as np
import pytest

from qdesampler.bench.annealers.__main__ import lattice, main, spectral_gaps


def test_the_partition_table_holds_exact_and_estimated_values(tmp_path):
    out = tmp_path / "annealers.md"
    assert main(["--tables", "partition", "--instances", "1", "--out", str(out)]) == 0
    row = next(line for line in out.read_text().splitlines() if line.startswith("| 0 |"))
    exact, estimate, error, deviation = (float(cell) for cell in row.split("|")[2:6])
    assert abs(estimate - exact) < 5 * error < 0.5
    assert abs((estimate - exact) / error - deviation) < 0.1


@pytest.mark.slow
def test_gaps_lie_between_nothing_and_all():
    gaps = spectral_gaps(4, 0, drives=2, masks=10)
    assert len(gaps) == 6
    assert all(0 < gap < 1 for gap in gaps.values())


def test_a_lattice_has_four_neighbours_everywhere():
    assert np.all(np.bincount(np.ravel(lattice(4, 6, 0).edges)) == 4)
