"""The count of modes that starts lose: the target at its modes, one start, bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.bench.evidence.lost_modes import lost_modes, main
from qdesampler.bench.targets.evidence import mixture_40, mixture_40_means


def test_the_modes_are_those_of_the_target():
    modes = jnp.asarray(mixture_40_means(), float)
    log_p = jax.vmap(mixture_40().log_density)(modes)
    single = -jnp.log(80 * jnp.pi)  # of one Gaussian; a neighbour may add to it
    assert np.all(log_p >= single - 1e-4)
    assert np.median(log_p - single) < 0.05


@pytest.mark.slow
def test_a_start_of_few_particles_is_seen_to_lose_modes_and_one_of_many_is_not():
    (few,) = lost_modes([114], 64)
    (many,) = lost_modes([103], None)
    assert few.is_fitted
    assert few.count > 1
    assert few.worst > 4
    assert few.alarmed
    assert many.count == 0
    assert many.worst < 3
    assert not many.alarmed


def test_bad_arguments_are_refused(capsys):
    for arguments in (
        ["--keys", "0"],
        ["--particles", "many"],
        ["--particles", "default,3"],
        ["--first", "-1"],
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "expected" in capsys.readouterr().err
