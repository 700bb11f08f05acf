"""Short names: their length, their ends, and that different names stay different."""

import pytest

from qdesampler.diagnostics.statistics.labels import short_names


def test_the_middle_is_cut():
    (short,) = short_names(["the_scale_of_the_effect_of_a_group[12]"], 15)
    assert short == "the_sca\N{HORIZONTAL ELLIPSIS}oup[12]"
    assert len(short) == 15
    assert short_names(["exactly15chars_"], 15) == ["exactly15chars_"]


def test_different_names_stay_different():
    left, right = "a" * 30 + "left" + "b" * 30, "a" * 30 + "rght" + "b" * 30
    short = short_names([left, right, left], 20)
    assert short[0] != short[1]
    assert short[0] == short[2]


def test_too_short():
    with pytest.raises(ValueError, match="at least 3 characters, got 2"):
        short_names(["abc"], 2)
