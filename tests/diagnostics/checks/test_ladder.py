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
from qdesampler.diagnostics.datatree.evidence_facts import evidence_facts
from qdesampler.diagnostics.plots.ladder import plot_ladder
from qdesampler.diagnostics.statistics.ladder import ladder_summary
from qdesampler.infer.annealed.kernel import AnnealedQDE


def double_well(x):
    return x[0] ** 4 - 6 * x[0] ** 2 - x[0] / 2 + x[1] ** 2 / 2


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


def test_diagnose_hears_the_alarms_of_the_ladder(wells, monkeypatch):
    assert "no_round_trips" not in [finding.code for finding in diagnose(wells)]
    monkeypatch.setattr(ladder, "FEW_ROUND_TRIPS", 1e6)
    assert "no_round_trips" in [finding.code for finding in diagnose(wells)]


def test_the_plot_shows_every_chain(wells):
    figure = plot_ladder(wells)
    assert len(figure.axes) == 4
    assert len(figure.axes[0].lines) == 4
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
    facts = evidence_facts(wells)
    attrs = to_datatree(wells, attrs=facts).attrs
    assert abs(attrs["log_evidence"] - 10.293479707) < 4 * attrs["log_evidence_error"]
    assert attrs["log_evidence_lower"] < attrs["log_evidence_upper"] + 0.1
    assert attrs["round_trips"] == int(ladder_summary(wells).round_trips.sum())


def test_other_kernels_are_refused():
    assert evidence_facts("no run") == {}
    with pytest.raises(ValueError, match="AnnealedQDE"):
        ladder_summary("no run")
