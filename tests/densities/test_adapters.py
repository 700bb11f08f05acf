"""Models of PyMC and Stan: draws agree with the reference values of the NumPyro forms; names and dims."""

from pathlib import Path

import numpy as np
import pytest

import qdesampler
from qdesampler.bench.densities.forms import PYMC, STAN, stan_data
from qdesampler.densities import from_pymc, from_stan
from qdesampler.infer import compare_with_reference, load_model

MODELS = Path(__file__).parents[2] / "models"


def check_reference(run, case):
    compared = compare_with_reference(run.get_samples(group_by_chain=True), case.reference)
    assert compared.smallest_ess > 200, compared
    # About 20 numbers in each of eight posteriors: 4 errors are exceeded by chance once in 100 such tables.
    assert np.max(np.abs([compared.error, compared.error_sq])) < 4, compared


def pymc_model(name, **options):
    pm = pytest.importorskip("pymc")
    case = load_model(MODELS / name)
    with pm.Model(**{"coords": {"school": range(8)}} | options) as model:
        PYMC[name](pm, **case.data)
    return model, case


def test_pymc_keeps_names_dims_and_labels():
    pytensor = pytest.importorskip("pytensor")
    schools = list("ABCDEFGH")
    with pytensor.config.change_flags(mode="FAST_COMPILE"):  # compiling would take most of the time
        model, _ = pymc_model("eight_schools", coords={"school": schools, "other": [1, 2]})
        density = from_pymc(model)
    assert density.dim == 10
    assert density.labels[:3] == ("mu", "tau_log__", "theta_offset[0]")
    run = qdesampler.sample(density, num_samples=40, progress=False)
    posterior = qdesampler.to_datatree(run)["posterior"]
    assert list(posterior.data_vars) == ["mu", "tau", "theta_offset", "theta"]
    assert posterior["theta"].dims == ("chain", "draw", "school")
    assert posterior["school"].values.tolist() == schools
    assert "other" not in posterior.dims
    np.testing.assert_allclose(
        posterior["theta"], posterior["mu"] + posterior["tau"] * posterior["theta_offset"]
    )
    assert "theta[A]" in qdesampler.summary(run).index


@pytest.mark.slow
@pytest.mark.parametrize("name", PYMC)
def test_pymc_agrees_with_numpyro(name):
    model, case = pymc_model(name)
    check_reference(qdesampler.sample(from_pymc(model), progress=False), case)


def test_models_of_pymc_that_cannot_be_sampled():
    pm = pytest.importorskip("pymc")
    with pm.Model() as model:
        pm.Poisson("count", 3)
    with pytest.raises(ValueError, match="discrete variables: count"):
        from_pymc(model)
    with pytest.raises(ValueError, match="no free variables"):
        from_pymc(pm.Model())
    with pytest.raises(ValueError, match="Expected a pymc.Model; got int"):
        from_pymc(3)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAN)
def test_pystan_agrees_with_numpyro(name):
    stan = pytest.importorskip("stan")
    case = load_model(MODELS / name)
    model = stan.build(STAN[name], data=stan_data(case.data))
    check_reference(qdesampler.sample(from_stan(model), progress=False), case)


class BridgeModel:
    """The documented methods of `bridgestan.StanModel`, for a model that is known in closed form.

    `real<lower=0> s; matrix[2, 3] a;` with `s ~ gamma(3, 1)`, `a ~ normal(0, 2)` and
    `transformed parameters { real t = 2 * s; }`. BridgeStan fetches its sources when it is first used, so
    that the real one cannot be tested everywhere.
    """

    def name(self):
        return "closed_model"

    def param_unc_num(self):
        return 7

    def param_unc_names(self):
        return ["s", *(f"a.{i}.{j}" for j in (1, 2, 3) for i in (1, 2))]

    def param_names(self, *, include_tp=False, include_gq=False):
        assert not include_gq
        return self.param_unc_names() + ["t"] * include_tp

    def log_density_gradient(self, theta_unc, *, propto=True, jacobian=True):
        assert jacobian
        if theta_unc[0] > 20:
            raise RuntimeError("the scale is too large")
        s, a = np.exp(theta_unc[0]), theta_unc[1:]
        return 3 * theta_unc[0] - s - np.sum(a**2) / 8, np.concatenate([[3 - s], -a / 4])

    def param_constrain(self, theta_unc, *, include_tp=False, include_gq=False):
        s = np.exp(theta_unc[0])
        return np.concatenate([[s], theta_unc[1:], [2 * s] * include_tp])


def test_bridgestan_keeps_shapes_and_takes_names_of_axes(assert_expectation):
    density = from_stan(BridgeModel(), dims={"a": ["row", "column"]}, coords={"column": ["x", "y", "z"]})
    assert density.labels[:3] == ("s", "a[0, 0]", "a[1, 0]")
    values, scores = density(np.array([[21.0] + [0.0] * 6]))
    assert values[0] == -np.inf
    assert np.all(np.isnan(scores))
    point = np.arange(7.0)[None]
    named = density.constrain(point)
    assert named["a"].tolist() == [[[1, 3, 5], [2, 4, 6]]]
    run = qdesampler.sample(density, num_samples=750, progress=False)
    draws = run.get_samples(group_by_chain=True)
    assert_expectation(draws["s"], 3.0)
    assert_expectation(draws["a"][..., 1, 2] ** 2, 4.0)
    np.testing.assert_allclose(draws["t"], 2 * draws["s"])
    posterior = qdesampler.to_datatree(run)["posterior"]
    assert posterior["a"].dims == ("chain", "draw", "row", "column")
    assert posterior["column"].values.tolist() == ["x", "y", "z"]
    assert qdesampler.to_datatree(run).attrs["model"] == "closed_model"


def test_what_is_no_model_of_stan():
    with pytest.raises(ValueError, match=r"Expected a model of PyStan .* got int"):
        from_stan(3)
    with pytest.raises(ValueError, match="leave out dim="):
        qdesampler.sample(from_stan(BridgeModel()), dim=7)


class TupleModel(BridgeModel):
    def param_names(self, *, include_tp=False, include_gq=False):
        return ["pair:1", *self.param_unc_names()[1:]]


def test_parameters_that_are_tuples():
    with pytest.raises(ValueError, match="pair:1 is a tuple"):
        from_stan(TupleModel())
