"""Every model's log density against a second implementation, in NumPy and SciPy, from the readme's statement.

The second implementation reads the JSON itself, so that `prepare` is tested with the model.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from numpyro.infer.util import log_density, potential_energy
from scipy import integrate, stats
from scipy.special import expit, gammaln, logsumexp

from qdesampler.infer import load_model

MODELS = Path(__file__).parents[2] / "models"
multivariate_normal: Any = stats.multivariate_normal  # its stub knows scalars only


def normal(x, loc, scale):
    return np.sum(stats.norm.logpdf(x, loc, scale))


def half_cauchy(x, scale):
    return stats.halfcauchy.logpdf(x, 0, scale)


def bernoulli(y, logit):
    return np.sum(stats.bernoulli.logpmf(y, expit(logit)))


def chi_square_volume(squares, dof):
    """Log of the density of ``|e|^2 = squares`` over that of ``e`` itself, for e of ``dof`` normal values."""
    return 0.5 * dof * np.log(np.pi) + (0.5 * dof - 1) * np.log(squares) - gammaln(0.5 * dof)


def arK(data, x):
    y, order = np.array(data["y"]), data["K"]
    log_p = normal(x["alpha"], 0, 10) + normal(x["beta"], 0, 10) + half_cauchy(x["sigma"], 2.5)
    for t in range(order, len(y)):
        mean = x["alpha"] + sum(x["beta"][k - 1] * y[t - k] for k in range(1, order + 1))
        log_p += normal(y[t], mean, x["sigma"])
    return log_p


def diamonds(data, x):
    columns = [np.array(data["carat"])]
    columns += [np.log(data[name]) for name in "xyz"]
    for name, levels in (("cut", 5), ("color", 7), ("clarity", 8)):
        for degree in range(1, levels):  # Gram-Schmidt of powers on the levels
            contrast = np.arange(1.0, levels + 1) ** degree
            lower = np.polynomial.polynomial.polyvander(np.arange(1.0, levels + 1), degree - 1)
            contrast -= lower @ np.linalg.lstsq(lower, contrast)[0]
            columns.append((contrast / np.linalg.norm(contrast))[np.array(data[name]) - 1])
    columns += [columns[0] * columns[k] for k in (1, 2, 3)]
    X, y = np.stack(columns, 1), np.log(data["price"])
    X = X - X.mean(0)
    prior = normal(x["b"], 0, 1) + stats.t.logpdf(x["Intercept"], 3, 8, 10)
    prior += np.log(2) + stats.t.logpdf(x["sigma"], 3, 0, 10)
    residual = np.linalg.lstsq(X, y - y.mean())[1][0]
    # A sum of squares has the density of its vector times the area of the sphere; the average is scaled.
    volume = chi_square_volume(residual, 4975) + 0.5 * np.log(5000)
    return prior + normal(y, x["Intercept"] + X @ x["b"], x["sigma"]) + volume


def eight_schools(data, x):
    theta = x["mu"] + x["tau"] * x["theta_offset"]
    prior = normal(x["mu"], 0, 5) + half_cauchy(x["tau"], 5) + normal(x["theta_offset"], 0, 1)
    return prior + normal(data["y"], theta, data["sigma"])


def eight_schools_centered(data, x):
    prior = normal(x["mu"], 0, 5) + half_cauchy(x["tau"], 5) + normal(x["theta"], x["mu"], x["tau"])
    return prior + normal(data["y"], x["theta"], data["sigma"])


def german_credit(data, x):
    predictors = np.array(data["predictors"])
    deviation = np.sqrt(np.mean((predictors - predictors.mean(0)) ** 2, 0))
    logit = x["alpha"] + (predictors / deviation) @ x["beta"]
    bad = np.array([{1: 0, 2: 1}[c] for c in data["credit_class"]])
    return normal(x["alpha"], 0, 1) + normal(x["beta"], 0, 1) + bernoulli(bad, logit)


def ionosphere(data, x):
    columns = np.array(data["returns"]).T
    scaled = [(c - c.mean()) / np.sqrt(np.mean((c - c.mean()) ** 2)) if np.ptp(c) else 0 * c for c in columns]
    logit = x["alpha"] + np.array(scaled).T @ x["beta"]
    return normal(x["alpha"], 0, 1) + normal(x["beta"], 0, 1) + bernoulli(np.array(data["good"]), logit)


def glmm_poisson(data, x):
    bounds = {"alpha": (-20, 20), "beta1": (-10, 10), "beta2": (-10, 10), "beta3": (-10, 10), "sigma": (0, 5)}
    prior = sum(stats.uniform.logpdf(x[k], low, high - low) for k, (low, high) in bounds.items())
    log_p = prior + normal(x["eps"], 0, x["sigma"])
    for t, count in enumerate(data["C"]):
        year = data["year"][t]
        cubic = x["alpha"] + x["beta1"] * year + x["beta2"] * year**2 + x["beta3"] * year**3
        log_p += stats.poisson.logpmf(count, np.exp(cubic + x["eps"][t]))
    return log_p


def gp_regression(data, x):
    prior = stats.gamma.logpdf(x["rho"], 25, scale=1 / 4)
    prior += stats.halfnorm.logpdf(x["alpha"], 0, 2) + stats.halfnorm.logpdf(x["sigma"], 0, 1)
    points = data["x"]
    S = [[x["alpha"] ** 2 * np.exp(-((s - t) ** 2) / (2 * x["rho"] ** 2)) for s in points] for t in points]
    return prior + multivariate_normal.logpdf(data["y"], np.zeros(11), np.array(S) + x["sigma"] * np.eye(11))


def ordered_rates(x):
    """x_1 ~ N(0, 1), x_2 ~ N(3, 1), given 0 < x_1 < x_2, normalised by quadrature."""
    assert 0 < x[0] < x[1]
    mass = integrate.quad(lambda t: stats.norm.pdf(t) * stats.norm.sf(t, 3, 1), 0, 12, epsrel=1e-12)[0]
    return normal(x, [0, 3], 1) - np.log(mass)


def hmm_drive(data, x):
    theta = np.stack([x["theta1"], x["theta2"]])
    log_p = sum(stats.dirichlet.logpdf(theta[k], data["alpha"][k]) for k in range(2))
    log_p += ordered_rates(x["phi"]) + ordered_rates(x["lambda"])
    forward = np.log([0.5, 0.5])
    for t, (u, v) in enumerate(zip(data["u"], data["v"], strict=True)):
        if t:
            forward = logsumexp(forward[:, None] + np.log(theta), axis=0)
        forward = forward + stats.expon.logpdf(u, 0, 1 / x["phi"]) + stats.expon.logpdf(v, 0, 1 / x["lambda"])
    return log_p + logsumexp(forward)


def irt_2pl(data, x):
    prior = sum(half_cauchy(x[name], 2) for name in ("sigma_theta", "sigma_a", "sigma_b"))
    prior += normal(x["theta"], 0, x["sigma_theta"]) + np.sum(stats.lognorm.logpdf(x["a"], x["sigma_a"]))
    prior += normal(x["mu_b"], 0, 5) + normal(x["b"], x["mu_b"], x["sigma_b"])
    return prior + sum(
        bernoulli(row, x["a"][i] * (x["theta"] - x["b"][i])) for i, row in enumerate(data["y"])
    )


def kidiq_interaction(data, x):
    hs, iq = np.array(data["mom_hs"]), np.array(data["mom_iq"])
    mean = np.stack([np.ones(434), hs, iq, hs * iq], 1) @ x["beta"]
    return half_cauchy(x["sigma"], 2.5) + normal(data["kid_score"], mean, x["sigma"])


def low_dim_gauss_mix(data, x):
    y, theta = np.array(data["y"])[:, None], x["theta"]
    assert x["mu"][0] < x["mu"][1]
    prior = np.log(2) + normal(x["mu"], 0, 2) + stats.beta.logpdf(theta, 5, 5)
    prior += np.sum(stats.halfnorm.logpdf(x["sigma"], 0, 2))
    components = stats.norm.logpdf(y, x["mu"], x["sigma"]) + np.log([theta, 1 - theta])
    return prior + np.sum(np.logaddexp.reduce(components, axis=1))


def mesquite(data, x):
    mean = x["beta"][0] + x["beta"][6] * np.array(data["group"])
    for k, name in enumerate(["diam1", "diam2", "canopy_height", "total_height", "density"]):
        mean = mean + x["beta"][k + 1] * np.log(data[name])
    return normal(np.log(data["weight"]), mean, x["sigma"])


def mt(data, x):
    log_p = 0.0
    for row in data["y"]:
        probability = x["omega"] * np.prod([p if y else 1 - p for y, p in zip(row, x["p"], strict=True)])
        log_p += np.log(probability + (1 - x["omega"]) * (not any(row)))
    return log_p


def concentration(data, k_a, K_m, V_m):
    """C at the measurements by Radau's method; without tight tolerances the start is missed."""

    def slope(t, C):
        absorption = data["D"] * k_a / data["V"] * np.exp(-k_a * t)
        return absorption - V_m / data["V"] * C / (K_m + C)

    span = (0, data["times"][-1])
    return integrate.solve_ivp(
        slope, span, [0.0], "Radau", data["times"], rtol=1e-10, atol=1e-13, first_step=1e-8
    ).y[0]


def one_comp_mm_elim_abs(data, x):
    log_p = sum(half_cauchy(x[name], 1) for name in ("k_a", "K_m", "V_m", "sigma"))
    median = concentration(data, x["k_a"], x["K_m"], x["V_m"])
    return log_p + np.sum(stats.lognorm.logpdf(data["C_hat"], x["sigma"], scale=median))


def radon_mn_centered(data, x):
    county, floor, y = (
        np.array(data["county_idx"]),
        np.array(data["floor_measure"]),
        np.array(data["log_radon"]),
    )
    prior = normal(x["mu_alpha"], 0, 10) + stats.halfnorm.logpdf(x["sigma_alpha"], 0, 1)
    prior += normal(x["alpha"], x["mu_alpha"], x["sigma_alpha"]) + normal(x["beta"], 0, 10)
    prior += stats.halfnorm.logpdf(x["sigma_y"], 0, 1)
    mean = x["alpha"][county - 1] + x["beta"][0] * np.array(data["log_uppm"]) + x["beta"][1] * floor
    cells = [y[(county == c) & (floor == f)] for c, f in sorted(set(zip(county, floor, strict=True)))]
    squares = sum(np.sum((cell - cell.mean()) ** 2) for cell in cells)
    volume = chi_square_volume(squares, 919 - len(cells)) + sum(0.5 * np.log(len(cell)) for cell in cells)
    return prior + normal(y, mean, x["sigma_y"]) + volume


def wells_interaction(data, x):
    d, a, e = (np.array(data[name]) - np.mean(data[name]) for name in ("dist", "arsenic", "educ"))
    d, e, b = d / 100, e / 4, x["beta"]
    logit = x["alpha"] + b[0] * d + b[1] * a + b[2] * e + b[3] * d * a + b[4] * d * e + b[5] * a * e
    return bernoulli(data["switched"], logit)


# Sites and unconstrained shapes; the support is the whole line unless it is named or given as (low, high).
STATEMENTS = {
    "arK": (arK, {"alpha": (), "beta": (5,), "sigma": ("positive", ())}),
    "diamonds": (diamonds, {"b": (24,), "Intercept": (), "sigma": ("positive", ())}),
    "eight_schools": (eight_schools, {"mu": (), "tau": ("positive", ()), "theta_offset": (8,)}),
    "eight_schools_centered": (eight_schools_centered, {"mu": (), "tau": ("positive", ()), "theta": (8,)}),
    "german_credit": (german_credit, {"alpha": (), "beta": (24,)}),
    "ionosphere": (ionosphere, {"alpha": (), "beta": (34,)}),
    "glmm_poisson": (
        glmm_poisson,
        {
            "alpha": ((-20, 20), ()),
            **dict.fromkeys(("beta1", "beta2", "beta3"), ((-10, 10), ())),
            "sigma": ((0, 5), ()),
            "eps": (40,),
        },
    ),
    "gp_regression": (gp_regression, dict.fromkeys(("rho", "alpha", "sigma"), ("positive", ()))),
    "hmm_drive": (
        hmm_drive,
        {
            **dict.fromkeys(("theta1", "theta2"), ("simplex", (1,))),
            **dict.fromkeys(("phi", "lambda"), ("positive ordered", (2,))),
        },
    ),
    "irt_2pl": (
        irt_2pl,
        {
            **dict.fromkeys(("sigma_theta", "sigma_a", "sigma_b"), ("positive", ())),
            "mu_b": (),
            "theta": (100,),
            "a": ("positive", (20,)),
            "b": (20,),
        },
    ),
    "kidiq_interaction": (kidiq_interaction, {"beta": (4,), "sigma": ("positive", ())}),
    "low_dim_gauss_mix": (
        low_dim_gauss_mix,
        {"mu": ("ordered", (2,)), "sigma": ("positive", (2,)), "theta": ("unit", ())},
    ),
    "mesquite": (mesquite, {"beta": (7,), "sigma": ("positive", ())}),
    "mt": (mt, {"omega": ("unit", ()), "p": ("unit", (3,))}),
    "one_comp_mm_elim_abs": (
        one_comp_mm_elim_abs,
        dict.fromkeys(("k_a", "K_m", "V_m", "sigma"), ("positive", ())),
    ),
    "radon_mn_centered": (
        radon_mn_centered,
        {
            **dict.fromkeys(("sigma_alpha", "sigma_y"), ("positive", ())),
            "mu_alpha": (),
            "alpha": (85,),
            "beta": (2,),
        },
    ),
    "wells_interaction": (wells_interaction, {"alpha": (), "beta": (6,)}),
}

# In the log density: of an ODE's solver, at points with residuals up to 5 sigma; of a fit
# to 5,000 x 24 numbers, at -7e4, whose residual differs between BLAS kernels by 3e-12 of it.
SOLVER_ERROR = {"one_comp_mm_elim_abs": 1e-4, "diamonds": 1e-6}


def constrain(support, u):
    """The constrained value and the log determinant of its Jacobian at the unconstrained ``u``."""
    if support == "positive":
        return np.exp(u), np.sum(u)
    if support == "unit":
        return expit(u), np.sum(np.log(expit(u) * expit(-u)))
    if support == "ordered":
        return np.concatenate([u[:1], u[0] + np.cumsum(np.exp(u[1:]))]), np.sum(u[1:])
    if support == "positive ordered":
        x, log_det = constrain("ordered", u)
        return np.exp(x), log_det + np.sum(x)
    if support == "simplex":  # of two entries
        return np.concatenate([expit(u), expit(-u)]), np.sum(np.log(expit(u) * expit(-u)))
    if isinstance(support, tuple):
        low, high = support
        inside = expit(u)
        return low + (high - low) * inside, np.sum(np.log((high - low) * inside * expit(-u)))
    return u, 0.0


def random_point(name, seed):
    """Unconstrained and constrained values of every site, and the sum of the log determinants."""
    generator = np.random.default_rng(seed)
    point, value, log_det = {}, {}, 0.0
    for site, spec in STATEMENTS[name][1].items():
        support, shape = spec if spec and not isinstance(spec[0], int) else ("real", spec)
        point[site] = generator.normal(0.0, 0.7, shape)
        value[site], log_det_site = constrain(support, point[site])
        log_det += log_det_site
    return point, value, log_det


@pytest.mark.parametrize("name", STATEMENTS)  # of the others in test_zoo.py
def test_log_density_is_the_statements(name, x64):
    folder = MODELS / name
    case = load_model(folder)
    statement, _ = STATEMENTS[case.name]
    data = json.loads((folder / "data.json").read_text())

    @jax.jit
    def implemented(value, point):
        constrained = log_density(case.model, (), case.data, value)[0]
        return constrained, -potential_energy(case.model, (), case.data, point)

    for seed in range(3):
        point, value, log_det = random_point(case.name, seed)
        expected = statement(data, value)
        constrained, unconstrained = implemented(value, point)
        error = SOLVER_ERROR.get(case.name, 1e-8)
        np.testing.assert_allclose(constrained, expected, rtol=1e-12, atol=error)
        np.testing.assert_allclose(unconstrained, expected + log_det, rtol=1e-12, atol=error)
        if log_det:  # the wrong twin: a density without its Jacobian
            assert abs(unconstrained - expected) > 1e-3


def test_centred_and_non_centred_eight_schools_are_one_posterior(x64):
    """Densities differ by the Jacobian of theta = mu + tau theta_offset, tau^8."""
    _, value, _ = random_point("eight_schools", 5)
    centred = {**value, "theta": value["mu"] + value["tau"] * value["theta_offset"]}
    del centred["theta_offset"]
    log_p = [
        float(
            log_density(load_model(MODELS / name).model, (), load_model(MODELS / name).data, site_values)[0]
        )
        for name, site_values in (("eight_schools", value), ("eight_schools_centered", centred))
    ]
    assert log_p[0] == pytest.approx(log_p[1] + 8 * np.log(value["tau"]), abs=1e-9)
