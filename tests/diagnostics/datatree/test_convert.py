"""`to_datatree` against the run itself, on models and kernels of every shape, and with wrong requests."""

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpyro.handlers import scope
from numpyro.infer import MCMC, NUTS
from scipy.stats import norm

from qdesampler.diagnostics import summary, to_datatree
from qdesampler.diagnostics.datatree.dims import AxisNames
from qdesampler.infer.model.trace import Plate, Site


def dims(tree, group="posterior"):
    return {str(name): values.dims for name, values in tree[group].data_vars.items()}


# ------------------------------------------------------------------------------------------ the shared run


def test_the_posterior_holds_every_draw_in_the_models_order(mcmc, tree):
    samples = mcmc.get_samples(group_by_chain=True)
    assert list(tree["posterior"].data_vars) == ["mu", "tau", "offset", "theta"]
    for name, values in samples.items():
        assert np.array_equal(tree["posterior"][name], values)
        assert tree["posterior"][name].dtype == values.dtype
    kinds = {name: values.attrs["site_kind"] for name, values in tree["posterior"].data_vars.items()}
    assert kinds == {"mu": "latent", "tau": "latent", "offset": "latent", "theta": "deterministic"}


def test_plates_name_the_axes_in_every_group(tree, eight):
    assert dims(tree) == {
        "mu": ("chain", "draw"),
        "tau": ("chain", "draw"),
        "offset": ("chain", "draw", "school"),
        "theta": ("chain", "draw", "school"),
    }
    assert dims(tree, "observed_data") == {"y": ("school",)}
    for group in ("log_likelihood", "posterior_predictive", "prior_predictive"):
        assert dims(tree, group) == {"y": ("chain", "draw", "school")}
    for group in ("posterior", "observed_data", "log_likelihood", "prior"):
        assert list(tree[group].coords["school"].values) == eight.labels


def test_the_kernels_statistics_have_arvizs_names(mcmc, tree):
    fields, stats = mcmc.get_extra_fields(group_by_chain=True), tree["sample_stats"]
    expected = {
        "lp": -fields["potential_energy"],
        "energy": fields["energy"],
        "diverging": fields["diverging"],
        "acceptance_rate": fields["accept_prob"],
        "num_evals": fields["num_evals"],
        "step_size": fields["adapt_state.step_size"],
    }
    assert set(stats.data_vars) == set(expected)
    for name, values in expected.items():
        assert np.array_equal(stats[name], values)


def test_attributes_say_what_was_run(mcmc, tree):
    attrs = tree.attrs
    for name in ("num_warmup", "num_samples", "num_chains", "thinning", "chain_method"):
        assert attrs[name] == getattr(mcmc, name)
    assert (attrs["model"], attrs["kernel"], attrs["seed"]) == ("schools", "QDE", 0)
    assert attrs["inference_library"] == "qdesampler"
    assert attrs["warmup_evals"] == int(np.sum(mcmc.last_state.warmup_evals)) > 0
    assert attrs["sampling_evals"] == int(np.sum(mcmc.get_extra_fields()["num_evals"])) > 0
    assert attrs["sampling_evals_exact"] == 1
    assert tree["posterior"].attrs["kernel"] == "QDE"
    assert attrs["created_at"].startswith("20")


def test_data_are_told_from_constants(tree, eight):
    assert list(tree["observed_data"].data_vars) == ["y"]  # and not the factor
    assert np.array_equal(tree["observed_data"]["y"], eight.effects)
    assert list(tree["constant_data"].data_vars) == ["sigma"]  # neither y nor the number of schools
    assert np.array_equal(tree["constant_data"]["sigma"], eight.errors)


def test_the_log_likelihood_is_the_likelihood_alone(tree, eight):
    expected = norm.logpdf(eight.effects, tree["posterior"]["theta"], eight.errors)
    assert list(tree["log_likelihood"].data_vars) == ["y"]  # the factor is no observation
    np.testing.assert_allclose(tree["log_likelihood"]["y"], expected, rtol=1e-4, atol=1e-4)


def test_predictions_have_the_law_of_the_model(tree, eight):
    noise = (tree["posterior_predictive"]["y"] - tree["posterior"]["theta"]) / eight.errors
    n = noise.size  # independent given theta
    assert abs(float(noise.mean())) < 5 / np.sqrt(n)
    assert abs(float((noise**2).mean()) - 1) < 5 * np.sqrt(2 / n)
    prior = tree["prior"]
    assert dict(prior.sizes) == {"chain": 1, "draw": 100, "school": 8}
    assert abs(float(prior["mu"].mean())) < 5 * 5 / np.sqrt(100)
    assert 3 < float(prior["mu"].std()) < 7
    np.testing.assert_allclose(
        prior["theta"], prior["mu"] + prior["tau"] * prior["offset"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
def test_arviz_reads_the_tree(tree):
    assert list(az.summary(tree, var_names=["theta"]).index[:2]) == ["theta[A]", "theta[B]"]
    assert np.all(az.bfmi(tree)["energy"] > 0)
    # leave-one-out by plain importance weights, which have a finite variance here
    weights = np.exp(-np.asarray(tree["log_likelihood"]["y"], float))
    plain = -np.sum(np.log(weights.mean((0, 1))))
    assert abs(az.loo(tree).elpd - plain) < 0.1
    for plot in (az.plot_trace_dist, az.plot_ppc_dist, az.plot_energy):
        panels = plot(tree, backend="matplotlib").viz["figure"].item().axes
        assert sum(len(panel.lines) + len(panel.collections) for panel in panels) >= 2  # something is drawn
    plt.close("all")


def test_netcdf_keeps_everything(tree, tmp_path):
    tree.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    back = az.from_netcdf(tmp_path / "run.nc")
    xr.testing.assert_identical(back.to_dataset(), tree.to_dataset())
    assert set(back.children) == set(tree.children)
    for group in tree.children:
        xr.testing.assert_equal(back[group].to_dataset(), tree[group].to_dataset())


def test_the_key_decides_the_predictions(mcmc, tree):
    same = to_datatree(mcmc, posterior_predictive=True, key=jax.random.key(1))
    other = to_datatree(mcmc, posterior_predictive=True, key=jax.random.key(2))
    assert np.array_equal(same["posterior_predictive"]["y"], tree["posterior_predictive"]["y"])
    assert not np.array_equal(other["posterior_predictive"]["y"], tree["posterior_predictive"]["y"])


# ------------------------------------------------------------------------------------------ other kernels


def test_nuts_with_thinning():
    mcmc = MCMC(NUTS(lambda: numpyro.sample("x", dist.Normal())), num_warmup=5, num_samples=10, thinning=2)
    mcmc.progress_bar = False
    fields = ("num_steps", "energy", "potential_energy", "adapt_state.step_size", "rng_key", "z_grad")
    mcmc.run(jax.random.PRNGKey(0), extra_fields=fields)
    tree = to_datatree(mcmc)
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 5}
    stats = tree["sample_stats"]
    assert {"n_steps", "energy", "lp", "step_size", "diverging", "z_grad.x"} <= set(stats.data_vars)
    np.testing.assert_allclose(stats["lp"], norm.logpdf(tree["posterior"]["x"]), rtol=1e-4)
    assert tree.attrs["sampling_evals"] == 2 * int(stats["n_steps"].sum())
    assert tree.attrs["sampling_evals_exact"] == 0
    assert "warmup_evals" not in tree.attrs  # NUTS does not tell


def test_potential_fn():
    mcmc = MCMC(
        NUTS(potential_fn=lambda z: 0.5 * jnp.sum(z**2)), num_warmup=2, num_samples=4, progress_bar=False
    )
    mcmc.run(jax.random.key(0), init_params=jnp.zeros(3))
    tree = to_datatree(mcmc)
    assert dims(tree) == {"z": ("chain", "draw", "z_dim_0")}
    assert set(tree.children) == {"posterior", "sample_stats"}
    assert np.array_equal(tree["posterior"]["z"], mcmc.get_samples(group_by_chain=True))
    with pytest.raises(ValueError, match="log_likelihood needs a model"):
        to_datatree(mcmc, log_likelihood=True)


@pytest.mark.parametrize(
    ("samples", "names"),
    [
        ({"a": np.ones((2, 6)), "b": {"c": np.zeros((2, 6, 2))}}, ["a", "b.c"]),
        ((np.ones((2, 6)), np.zeros((2, 6, 2))), ["z.0", "z.1"]),
        ([[np.ones((2, 6))], np.zeros((2, 6, 2))], ["z.0.0", "z.1"]),
    ],
    ids=["dict", "tuple", "list"],
)
def test_draws_in_a_pytree_are_named_by_their_path(finished_run, samples, names):
    posterior = to_datatree(finished_run(samples))["posterior"]
    assert list(posterior.data_vars) == names
    assert np.all(posterior[names[0]] == 1)
    assert posterior[names[1]].shape == (2, 6, 2)


def test_a_kernel_that_collects_nothing(jitter):
    tree = to_datatree(jitter(lambda: numpyro.sample("x", dist.Normal()), thinning=2))
    assert set(tree.children) == {"posterior"}
    assert dict(tree["posterior"].sizes) == {"chain": 2, "draw": 3}


def test_jit_model_args(jitter):
    def model(x, y):
        slope = numpyro.sample("slope", dist.Normal())
        numpyro.sample("y", dist.Normal(slope * x), obs=y)

    x, y = np.arange(3.0), np.ones(3)
    tree = to_datatree(jitter(model, x, y, jit_model_args=True), log_likelihood=True)
    assert np.array_equal(tree["constant_data"]["x"], x)
    assert np.array_equal(tree["observed_data"]["y"], y)
    expected = norm.logpdf(y, tree["posterior"]["slope"].values[..., None] * x)
    np.testing.assert_allclose(tree["log_likelihood"]["y"], expected, rtol=1e-5)


# ------------------------------------------------------------------------------------------ names of axes


def test_axes_of_every_kind(drawn):
    def model(data):
        scale = numpyro.sample("scale", dist.HalfNormal().expand([2]))  # batch without a plate
        with numpyro.plate("row", 3, dim=-2):
            a = numpyro.sample("a", dist.Normal())  # a gap at -1
            numpyro.deterministic("twice", 2 * a)
            with numpyro.plate("column", 4, dim=-1):
                numpyro.sample("b", dist.Normal(a, scale[0]))
                numpyro.sample("v", dist.Normal().expand([2]).to_event(1))
        names = {"event_dims": ["part"]}
        numpyro.sample("p", dist.Normal().expand([5]).to_event(1), infer=names)
        with numpyro.plate("case", 6):
            numpyro.sample("d", dist.Normal().expand([2]).to_event(1), obs=data["d"])

    data = {"d": np.ones((6, 2)), "n": 6, "x": np.arange(4.0), "why": "because"}
    tree = to_datatree(drawn(model, data), log_likelihood=True)
    assert {name: names[2:] for name, names in dims(tree).items()} == {
        "scale": ("scale_dim_0",),
        "a": ("row", "a_dim_1"),
        "twice": ("row", "twice_dim_1"),
        "b": ("row", "column"),
        "v": ("row", "column", "v_dim_2"),
        "p": ("part",),
    }
    assert dims(tree, "log_likelihood") == {"d": ("chain", "draw", "case")}
    assert dims(tree, "observed_data") == {"d": ("case", "d_dim_1")}
    assert list(tree["constant_data"].data_vars) == ["data.x"]


def test_a_plate_called_like_a_variable(drawn):
    def model(school):
        with numpyro.plate("school", 2):
            numpyro.sample("a", dist.Normal())
        with numpyro.plate("draw", 3):
            numpyro.sample("x", dist.Normal())

    tree = to_datatree(drawn(model, np.ones(2)))
    assert dims(tree) == {"a": ("chain", "draw", "school_dim"), "x": ("chain", "draw", "draw_dim")}
    assert dims(tree, "constant_data") == {"school": ("school_dim_0",)}


def test_plates_of_one_name_and_two_sizes():
    axes = AxisNames(["a", "b"])
    named = [
        axes.of(name, (size,), Site("latent", None, (Plate("n", -1, size),), 0, ()))
        for name, size in (("a", 2), ("b", 3), ("c", 2))
    ]
    assert named == [["n"], ["b_dim_0"], ["n"]]


def test_scoped_names_and_netcdf(drawn, tmp_path):
    def model():
        with numpyro.plate("n", 2):
            numpyro.sample("a", dist.Normal())

    tree = to_datatree(drawn(scope(model, prefix="left")), dims={"left/a": ["side"]})
    assert dims(tree) == {"left.a": ("chain", "draw", "side")}
    tree.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    assert az.from_netcdf(tmp_path / "run.nc")["posterior"]["left.a"].shape == (2, 6, 2)


def test_own_dims_and_coords(mcmc):
    tree = to_datatree(mcmc, dims={"theta": ["where"]}, coords={"where": [f"s{i}" for i in range(8)]})
    assert dims(tree)["theta"] == ("chain", "draw", "where")
    assert tree["posterior"].coords["where"].values[-1] == "s7"
    assert dims(tree)["offset"] == ("chain", "draw", "school")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"dims": {"theta": ["a", "b"]}}, r"names 2 axes; one draw of 'theta' has shape \(8,\)"),
        ({"dims": {"theta": ["mu"]}}, "'mu' is the name of a variable"),
        (
            {"dims": {"theta": ["n"], "sigma": ["n"], "mu": []}, "coords": {"m": [1]}},
            "'m', which no variable has",
        ),
        ({"dims": {"typo": ["a"]}}, r"dims names typo, which the run does not have; it has .*mu, .*theta"),
        ({"dims": {"thet": ["school"], "tau": []}}, "dims names thet, which"),
        ({"coords": {"school": ["A"] * 8}}, "holds equal labels"),
        ({"coords": {"school": [("A", i) for i in range(8)]}}, r"holds \('A', 0\); a label is one number"),
        ({"coords": {"school": ["A"]}}, "1 labels; the dimension has size 8"),
        ({"prior": 10}, "give key="),
        ({"posterior_predictive": True}, "give key="),
        ({"prior": 0, "key": 1}, "at least 1; given 0"),
        ({"prior": True, "key": 1}, "at least 1; given True"),
    ],
)
def test_wrong_requests(mcmc, request_, message):
    request_ = {**request_, **({"key": jax.random.key(0)} if "key" in request_ else {})}
    with pytest.raises(ValueError, match=message):
        to_datatree(mcmc, **request_)


def test_complex_sites_keep_both_parts(finished_run, tmp_path):
    z = np.arange(36).reshape(2, 6, 3) * (1 + 2j)
    run = finished_run({"wave/c": z, "x": z[..., 0].real})
    tree = to_datatree(run, dims={"wave/c": ["n"]}, coords={"n": list("abc")})
    axes = ("chain", "draw", "n")
    assert dims(tree) == {"wave.c.real": axes, "wave.c.imag": axes, "x": axes[:2]}
    np.testing.assert_array_equal(tree["posterior"]["wave.c.imag"], z.imag)
    tree.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    table = summary(tree)
    assert table.loc["wave.c.imag[b]", "mean"] == pytest.approx(z[..., 1].imag.mean())
    foreign = xr.DataTree.from_dict({"posterior": xr.Dataset({"c": (("chain", "draw"), z[..., 1])})})
    assert list(summary(foreign).index) == ["c.real", "c.imag"]


def test_one_dimension_has_one_size(finished_run):
    run = finished_run({"a": np.zeros((2, 6, 2)), "b": np.zeros((2, 6, 3))})
    with pytest.raises(ValueError, match="'n' has size 2 elsewhere and 3 here"):
        to_datatree(run, dims={"a": ["n"], "b": ["n"]})


# ------------------------------------------------------------------------------------------ no draws


def test_before_the_run(eight):
    mcmc = MCMC(NUTS(eight.model), num_warmup=5, num_samples=5, progress_bar=False)
    with pytest.raises(ValueError, match="run the sampler first"):
        to_datatree(mcmc)


def test_after_the_warmup_only():
    mcmc = MCMC(
        NUTS(lambda: numpyro.sample("a", dist.Normal())), num_warmup=3, num_samples=3, progress_bar=False
    )
    mcmc.warmup(jax.random.key(0))
    assert np.all(mcmc.get_samples()["a"] == 0)  # NumPyro's rows of zeros
    with pytest.raises(ValueError, match="Only the warm-up was run"):
        to_datatree(mcmc)
    mcmc.run(jax.random.key(1))
    mcmc.post_warmup_state = mcmc.last_state  # to go on later
    assert to_datatree(mcmc)["posterior"]["a"].shape == (1, 3)


def test_no_latent_sites():
    def model(y):
        numpyro.sample("y", dist.Normal(), obs=y)

    mcmc = MCMC(NUTS(model), num_warmup=1, num_samples=1, progress_bar=False)
    mcmc.run(jax.random.key(0), 1.0)
    with pytest.raises(ValueError, match="no latent sites"):
        to_datatree(mcmc)
