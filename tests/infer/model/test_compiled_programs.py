"""Programs of a start: kept for the same arguments, made anew for others, never kept with a trace inside."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.gibbs import GIBBS_SITES_KWARG

from qdesampler.infer.annealed import kernel as annealed
from qdesampler.infer.annealed.kernel import AnnealedQDE
from qdesampler.infer.annealed.population import anneal_and_fit
from qdesampler.infer.model.compiled_programs import CompiledPrograms
from tests.targets import double_well

DATA = jnp.array([1.0, 2.0, 0.5])


@pytest.fixture
def counted():
    made = []

    def make():
        made.append(object())
        return made[-1]

    return CompiledPrograms(), make, made


def test_a_program_is_made_once_for_the_same_arguments(counted):
    programs, make, made = counted
    first = programs.get("anneal", make, (DATA,), {"degree": 2})
    assert programs.get("anneal", make, (DATA,), {"degree": 2}) is first
    assert programs.get(("anneal", 3), make, (DATA,), {"degree": 2}) is not first
    assert programs.get("anneal", make, (DATA,), {"degree": 2}) is first
    assert len(made) == 2


@pytest.mark.parametrize(
    ("args", "kwargs"), [((DATA + 1,), {"degree": 2}), ((DATA,), {"degree": 3}), ((DATA,), {})]
)
def test_other_arguments_are_never_served_by_an_old_program(counted, args, kwargs):
    programs, make, _ = counted
    first = programs.get("anneal", make, (DATA,), {"degree": 2})
    assert programs.get("anneal", make, args, kwargs) is not first
    # only those of the last arguments are kept
    assert programs.get("anneal", make, (DATA,), {"degree": 2}) is not first


def test_an_array_edited_in_place_is_another_one(counted):
    programs, make, _ = counted
    data = np.zeros(3)
    first = programs.get("anneal", make, (data,), {})
    assert programs.get("anneal", make, (np.zeros(3),), {}) is first  # the same numbers
    data[1] = 1
    assert programs.get("anneal", make, (data,), {}) is not first


def test_nothing_is_kept_from_a_trace_of_other_objects_or_of_other_conditions(counted):
    programs, make, made = counted
    jax.jit(lambda y: [programs.get("anneal", make, (y,), {}), y][1])(DATA)
    jax.jit(lambda key: [programs.get("anneal", make, (DATA,), {}, key), key][1])(DATA)
    opaque = object()
    for _ in range(2):
        programs.get("anneal", make, (opaque,), {})
    for value in (1, 2):  # of a Gibbs block
        programs.get("anneal", make, (DATA,), {GIBBS_SITES_KWARG: {"k": value}})
    assert len(made) == 6
    assert programs.get("anneal", make, (DATA,), {}) is made[6]


@pytest.mark.slow
def test_a_second_start_compiles_nothing_and_a_copy_starts_afresh(monkeypatch):
    traced = []

    def counted(*arguments, **options):
        traced.append(None)
        return anneal_and_fit(*arguments, **options)

    monkeypatch.setattr(annealed, "anneal_and_fit", counted)
    # with the settings of `annealed_wells`, whose programs are on disk where that run was made before
    kernel = AnnealedQDE(potential_fn=double_well, reference=3.0, num_particles=128, max_rungs=6)
    found = []
    for number in (0, 1, 0):
        keys, start = jax.random.split(jax.random.key(number), 4), {"x": jnp.ones((4, 2))}
        found.append(float(kernel.init(keys, 200, start).adapt_state.ladder.centres.sum()))
    assert len(traced) == 1
    assert found[0] == found[2] != found[1]
    assert copy.copy(kernel)._programs is not kernel._programs
