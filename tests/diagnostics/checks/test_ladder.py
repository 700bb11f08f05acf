"""Numbers, findings and the plot of a ladder."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import MCMC

from qdesampler.diagnostics.checks import ladder
from qdesampler.diagnostics.checks.diagnose import diagnose
from qdesampler.diagnostics.checks.ladder import ladder_findings
from qdesampler.diagnostics.datatree.convert import to_datatree
from qdesampler.diagnostics.datatree.kernel_answers import kernel_facts
from qdesampler.diagnostics.plots.ladder import plot_ladder
from qdesampler.diagnostics.statistics.ladder import evidence_report, ladder_summary
from qdesampler.infer.annealed.kernel import AnnealedQDE
from tests.targets import DOUBLE_WELL_LOG_Z, double_well


def spike_in_slab(x, width=0.02):
    """A spike of 90% of the mass in a slab of unit width, at its centre; normalised but for (2 pi)^(d/2)."""
    narrow = jnp.log(0.9) - 0.5 * jnp.sum((x / width) ** 2) - x.size * jnp.log(width)
    return -jnp.logaddexp(narrow, jnp.log(0.1) - 0.5 * jnp.sum(x**2))


def far_wells(x):
    return -jnp.logaddexp(-0.5 * jnp.sum((x - 6) ** 2), -0.5 * jnp.sum((x + 6) ** 2))


def sampled(potential, dim, samples, *, warmup=64, key=0, **options):
    kernel = AnnealedQDE(potential_fn=potential, **{"reference": 3.0, "num_particles": 128, **options})
    mcmc = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(key), init_params=jnp.ones((4, dim)))
    return mcmc


@pytest.fixture(scope="module")
def wells():
    return sampled(double_well, 2, 1000, reference_kind="prior", num_particles=256, warmup=160)


@pytest.mark.slow
def test_a_good_ladder_gives_its_numbers_and_nothing_to_complain_of(wells):
    summary = ladder_summary(wells)
    np.testing.assert_allclose(summary.barrier, (1 - summary.swap_rates).sum(1), rtol=1e-5)
    assert np.all((summary.barrier > 1) & (summary.barrier < 2.5))
    # replicas cannot be faster than the swap rates allow, and are not much slower where moves forget
    assert np.all(summary.round_trips < 1.3 * summary.expected_round_trips)
    assert np.all(summary.round_trips > 0.3 * summary.expected_round_trips)
    assert np.all(np.diff(summary.betas, axis=1) > 0)
    assert np.all(summary.flow[:, 0] == 1)
    assert np.all(summary.flow[:, -1] == 0)
    assert ladder_findings(wells) == []


@pytest.mark.slow
def test_diagnose_hears_the_alarms_of_the_ladder(annealed_wells, monkeypatch):
    assert "no_round_trips" not in [finding.code for finding in diagnose(annealed_wells)]
    monkeypatch.setattr(ladder, "FEW_ROUND_TRIPS", 1e6)
    assert "no_round_trips" in [finding.code for finding in diagnose(annealed_wells)]


def test_populations_that_surprise_one_another_are_an_alarm(annealed_wells):
    state = annealed_wells.last_state
    assert "few_particles" not in [finding.code for finding in ladder_findings(state)]
    shared = state.adapt_state.shared._replace(surprising=jnp.asarray(0.2))
    state = state._replace(adapt_state=state.adapt_state._replace(shared=shared))
    found = {finding.code: finding for finding in ladder_findings(state)}
    assert "20% of the draws" in found["few_particles"].message


def test_the_plot_shows_every_chain(annealed_wells):
    figure, summary, report = (
        plot_ladder(annealed_wells),
        ladder_summary(annealed_wells),
        evidence_report(annealed_wells),
    )
    rates, flow, heat, evidence = figure.axes
    for panel, values in ((rates, summary.swap_rates), (flow, summary.flow), (heat, summary.specific_heat)):
        for line, of_chain in zip(panel.lines, values, strict=False):  # flow has one more line, the ideal
            np.testing.assert_allclose(line.get_ydata(), np.maximum(of_chain, 1e-12 * (panel is heat)))
    assert [len(panel.lines) for panel in (rates, flow, heat)] == [4, 5, 4]
    np.testing.assert_allclose(evidence.lines[0].get_xdata(), report.by_chain)
    figure.canvas.draw()


@pytest.mark.slow
def test_a_ladder_that_does_not_join_is_reported():
    found = ladder_findings(
        sampled(far_wells, 8, 64, num_particles=16, num_rungs=2, reference_kind="prior", key=2)
    )
    assert {"no_round_trips", "first_order"} <= {finding.code for finding in found}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_spike_in_a_slab_is_never_wrong_and_silent(seed):
    for kind in ("auto", "prior"):
        mcmc = sampled(partial(spike_in_slab), 8, 400, key=seed, reference_kind=kind)
        codes = {finding.code for finding in ladder_findings(mcmc)}
        assert "missed_mode" in codes
        if kind == "auto":
            spike = np.mean(np.sum(np.asarray(mcmc.get_samples()) ** 2, axis=1) < 0.1)
            assert abs(spike - 0.9) < 0.05


@pytest.mark.slow
def test_the_facts_go_into_a_tree(wells):
    attrs = to_datatree(wells).attrs
    assert kernel_facts(wells).items() <= attrs.items()
    assert abs(attrs["log_evidence"] - DOUBLE_WELL_LOG_Z) < 4 * attrs["log_evidence_error"]
    assert attrs["log_evidence_lower"] < attrs["log_evidence_upper"] + 0.1
    assert attrs["round_trips"] == int(ladder_summary(wells).round_trips.sum())


def test_other_kernels_are_refused():
    assert kernel_facts("no run") == {}
    for function in (ladder_summary, evidence_report, ladder_findings, plot_ladder):
        with pytest.raises(ValueError, match="AnnealedQDE"):
            function("no run")


def test_a_state_without_its_kernel_gives_the_numbers_of_its_run(annealed_wells):
    of_run, of_state = ladder_summary(annealed_wells), ladder_summary(annealed_wells.last_state)
    np.testing.assert_array_equal(of_state.round_trips, of_run.round_trips)
    np.testing.assert_array_equal(of_state.swap_rates, of_run.swap_rates)
    assert evidence_report(annealed_wells.last_state).value == evidence_report(annealed_wells).value
    assert ladder_findings(annealed_wells.last_state) == ladder_findings(annealed_wells)


def test_old_names_of_fields_work_and_name_the_new_ones(annealed_wells):
    summary = ladder_summary(annealed_wells)
    for old, new in (("fractions", "betas"), ("hidden_share", "missed_mass")):
        with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}"):
            assert getattr(summary, old) is getattr(summary, new)
