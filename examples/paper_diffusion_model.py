"""A diffusion model: noising is the free quantum dynamic equation; sampling reverses it along grad log psi.

This is the paper's diffusion model (Wang and Maimaitiniyazi, arXiv:2407.19890). Forward: with zeta = 0 the
equation is dp/dtau = D lap p, whose kernel N(x0, 2 D tau) adds noise. Backward in tau: a drift
2 D grad log p, along grad log psi, and fresh noise. The example uses first the exact score of a mixture of
eight Gaussians, and then a small score network that is learned by denoising, on carat and price of 5000
diamonds (models/diamonds). It prints the distance to held-out draws (sliced Wasserstein) and that between two
halves of the data: at a ratio of 1 the samples are as good as more data.

Where our statement differs: what evolves freely is the density p = psi^2, not psi. The score is that of p
at each noise level, grad log p = 2 grad log psi, and the reverse run needs the scores of all noise levels.
The ground state alone, which gives the score of clean data, does not undo the noise.

    python examples/paper_diffusion_model.py [--out FOLDER] [--quick]
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from qdesampler.diagnostics import sliced_wasserstein

DATA = Path(__file__).parents[1] / "models" / "diamonds" / "data.json"
ANGLES = 2 * jnp.pi * jnp.arange(8) / 8
CENTRES = 2 * jnp.stack([jnp.cos(ANGLES), jnp.sin(ANGLES)], 1)
WIDTH = 0.2
WIDEST = 8.0


def mixture(key, count):
    """Draws of the eight Gaussians on a circle."""
    which, noise = jax.random.split(key)
    return CENTRES[jax.random.randint(which, (count,), 0, 8)] + WIDTH * jax.random.normal(noise, (count, 2))


def exact_score(_, x, sigma):
    """Return `grad log p` at one point, after noise of sd `sigma = sqrt(2 D tau)`: the mixture, widened."""

    def log_p(x):
        return jax.nn.logsumexp(-jnp.sum((x - CENTRES) ** 2, 1) / (2 * (WIDTH**2 + sigma**2)))

    return jax.grad(log_p)(x)


@partial(jax.jit, static_argnames=("score", "steps"))
def reverse(key, score, parameters, start, steps, lowest):
    """Take `start`, at noise of sd `WIDEST`, back to `lowest`, then to the mean of the clean point."""
    levels = jnp.geomspace(WIDEST, lowest, steps + 1)
    scores = jax.vmap(score, (None, 0, None))

    def step(x, each):
        key, high, low = each
        fall = high**2 - low**2  # 2 D dtau
        noise = jnp.sqrt(fall) * low / high * jax.random.normal(key, x.shape)
        return x + fall * scores(parameters, x, high) + noise, None

    keys = jax.random.split(key, steps)
    last, _ = jax.lax.scan(step, start, (keys, levels[:-1], levels[1:]))
    return last + lowest**2 * scores(parameters, last, lowest)


def learned_score(parameters, x, sigma):
    """Return `(E[x0 | x] - x) / sigma^2` (Tweedie) at one point, the mean by a network; data have sd 1."""
    total = jnp.sqrt(1 + sigma**2)
    hidden = jnp.append(x / total, jnp.log(sigma) / 4)
    for weight, bias in parameters[:-1]:
        hidden = jax.nn.silu(hidden @ weight + bias)
    weight, bias = parameters[-1]
    mean = x / total**2 + sigma / total * (hidden @ weight + bias)
    return (mean - x) / sigma**2


def train(key, data, steps, width=96):
    """Fit the network by denoising: the mean square of `sigma score + noise`, where noise was added."""
    sizes = (3, width, width, width, 2)
    pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
    parameters = [
        (jax.random.normal(k, pair) / np.sqrt(pair[0]), jnp.zeros(pair[1]))
        for k, pair in zip(jax.random.split(key, len(pairs)), pairs, strict=True)
    ]
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def loss(parameters, key):
        rows, level, noise = jax.random.split(key, 3)
        clean = data[jax.random.randint(rows, (512,), 0, len(data))]
        sigma = jnp.exp(jax.random.normal(level, (512, 1)) * 1.4 - 1.0)
        noise = jax.random.normal(noise, clean.shape)
        found = jax.vmap(learned_score, (None, 0, 0))(parameters, clean + sigma * noise, sigma[:, 0])
        return jnp.mean((sigma**2 + 1) * (sigma * found + noise) ** 2)

    @jax.jit
    def fit(parameters):
        def step(carry, key):
            parameters, state = carry
            updates, state = optimizer.update(jax.grad(loss)(parameters, key), state)
            return (optax.apply_updates(parameters, updates), state), None

        keys = jax.random.split(jax.random.fold_in(key, 1), steps)
        return jax.lax.scan(step, (parameters, optimizer.init(parameters)), keys)[0][0]

    return fit(parameters)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--quick", action="store_true", help="fewer draws and steps")
    options = parser.parse_args()
    count, seeds, steps = (1000, 24, 150) if options.quick else (4000, 24, 300)

    keys = jax.random.split(jax.random.key(0), 4)
    real, held_out = mixture(keys[0], 2 * seeds * count).reshape(2, seeds, count, 2)
    widest = jnp.sqrt(WIDEST**2 + 2 + WIDTH**2)  # the noised mixture, nearly a Gaussian
    start = widest * jax.random.normal(keys[2], (seeds * count, 2))
    drawn = reverse(keys[3], exact_score, None, start, steps, 0.02).reshape(seeds, count, 2)
    ours = [sliced_wasserstein(a, b) for a, b in zip(drawn, held_out, strict=True)]
    theirs = [sliced_wasserstein(a, b) for a, b in zip(real, held_out, strict=True)]
    print(
        f"mixture, exact score, {seeds} seeds of {count}: to held-out {np.mean(ours):.4f}, "
        f"real halves {np.mean(theirs):.4f}, ratio {np.mean(ours) / np.mean(theirs):.3f}"
    )

    table = json.loads(DATA.read_text(encoding="utf-8"))
    data = np.log(np.column_stack([table["carat"], table["price"]]))
    data = (data - data.mean(0)) / data.std(0)
    halves = np.random.default_rng(0).permutation(data).reshape(2, -1, 2)
    parameters = train(jax.random.key(1), jnp.asarray(halves[0]), 1500 if options.quick else 10000)
    start = np.sqrt(WIDEST**2 + 1) * jax.random.normal(jax.random.key(2), halves[0].shape)
    made = np.asarray(reverse(jax.random.key(3), learned_score, parameters, start, steps, 0.01))
    gaussian = np.random.default_rng(1).multivariate_normal(halves[0].mean(0), np.cov(halves[0].T), len(made))
    far = [sliced_wasserstein(x, halves[1]) for x in (made, gaussian, halves[0])]
    print(
        f"diamonds, learned score: to held-out {far[0]:.4f}, a Gaussian fit {far[1]:.4f}, "
        f"real halves {far[2]:.4f}"
    )

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    rows = figure.subplots(2, 4)
    shown = held_out[0][:1000]
    for axes, sigma in zip(rows[0], (0.0, 0.5, 2.0), strict=False):
        noise = sigma * jax.random.normal(jax.random.key(9), shown.shape)
        axes.plot(*(shown + noise).T, ".", ms=2, color="0.4")
        axes.set(title=f"forward, noise {sigma:g}")
    rows[0, 3].plot(*drawn[0][:1000].T, ".", ms=2)
    rows[0, 3].set(title="reverse, exact score")
    for axes in rows[0]:
        axes.set(xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
    sets = {"held-out diamonds": halves[1], "reverse, learned score": made, "a Gaussian fit": gaussian}
    for axes, (title, points), color in zip(rows[1], sets.items(), ("0.4", "C0", "C3"), strict=False):
        axes.plot(*points.T, ".", ms=2, color=color)
        axes.set(title=title, xlim=(-3, 3), ylim=(-3, 3), xlabel="log carat", ylabel="log price")
    bars = rows[1, 3].bar(["learned", "Gaussian", "real half"], far, color=["C0", "C3", "0.4"])
    rows[1, 3].bar_label(bars, fmt="%.3f")
    rows[1, 3].set(title="distance to held-out", ylim=(0, 1.15 * max(far)))
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "paper_diffusion_model.png", dpi=120)


if __name__ == "__main__":
    main()
