"""Wick's rotation: one state oscillates in real time and decays in imaginary time, at the same energies.

This is the paper's quantum dynamic equation in both times (Wang and Maimaitiniyazi, arXiv:2407.19890):

    i dpsi/dt = (-D lap + zeta) psi,      dpsi/dtau = (D lap - zeta) psi,      tau = i t.

A packet in an anharmonic well is propagated in both ways. The Fourier transform of <psi(0)|psi(t)> has its
lines at those levels E_n that the packet contains. Under exp(-H tau) the slopes of the norm and of the
distance to the ground state give E_0 and the gap. An eigensolver gives the levels for comparison.

Where our statement differs: both runs are propagated, each on its own. The rotation is an identity between
two operators of the same spectrum. One run cannot be read off the other: in real time nothing converges.

    python examples/paper_wick_rotation.py [--out FOLDER] [--quick]
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import fminbound

from qdesampler import Hamiltonian, SpectralGrid, ground_state
from qdesampler.solvers import propagate, propagate_real_time

GRID = SpectralGrid(bounds=(-5.0, 5.0), points=128, states=4)
STEP = 0.005


def packet(x):
    """Off the centre, so that odd levels are in it too."""
    return jnp.exp(-((x[0] - 0.7) ** 2))


def spectral_lines(time, autocorrelation, count):
    """The `count` strongest lines of `sum_n |c_n|^2 exp(-i E_n t)`, ascending, and its windowed transform."""
    window = np.hanning(2 * len(time) - 1)[len(time) - 1 :]

    def strength(energy):
        return np.real(np.sum(window * autocorrelation * np.exp(1j * energy * time))) / window.sum()

    energies = np.arange(0, 12, np.pi / time[-1] / 8)
    line = np.array([strength(e) for e in energies])
    top = [i for i in range(1, len(line) - 1) if line[i] > max(line[i - 1], line[i + 1])]
    peaks = sorted(sorted(top, key=lambda i: -line[i])[:count])
    around = [(energies[i - 1], energies[i + 1]) for i in peaks]
    fine = [fminbound(lambda e: -strength(e), *ends) for ends in around]
    return np.array(fine), energies, line


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--quick", action="store_true", help="a shorter run in real time")
    options = parser.parse_args()
    hamiltonian = Hamiltonian.from_objective(lambda x: x[0] ** 2 / 2 + x[0] ** 4 / 4, dim=1, diffusion=0.5)

    levels = np.asarray(ground_state(hamiltonian, GRID).levels, float)
    steps = 8000 if options.quick else 24000
    real = propagate_real_time(hamiltonian, GRID, packet, time_step=STEP, num_steps=steps)
    lines, energies, line = spectral_lines(
        np.asarray(real.time, float), np.asarray(real.autocorrelation, complex), 3
    )
    print("level   eigensolver   real time")
    for n, (level, found) in enumerate(zip(levels, lines, strict=False)):
        print(f"E_{n} {level:15.5f} {found:11.5f}")

    imaginary = propagate(hamiltonian, GRID, packet, time_step=STEP, num_steps=1200)
    tau = np.asarray(imaginary.time, float)
    log_norm, distance = np.asarray(imaginary.log_norm, float), np.asarray(imaginary.distance, float)
    lowest = (log_norm[800] - log_norm[1200]) / (tau[1200] - tau[800])
    gap = np.log(distance[400] / distance[800]) / (tau[800] - tau[400])
    print(f"imaginary time: E_0 {lowest:.5f}, gap {gap:.5f}; eigensolver: gap {levels[1] - levels[0]:.5f}")
    energy = np.asarray(real.energy, float)
    print(
        f"<H> in real time {energy.min():.4f} to {energy.max():.4f}; in imaginary time falls from "
        f"{float(imaginary.energy[0]):.4f} to {float(imaginary.energy[-1]):.4f}"
    )

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    swing, decay, spectrum = figure.subplots(1, 3)
    shown = slice(0, 4000)
    swing.plot(real.time[shown], real.mean[shown, 0], lw=1)
    swing.set(xlabel="real time t", ylabel="mean of x", title="Real time: oscillation")
    decay.semilogy(tau, distance, label="distance to $\\psi_0$")
    decay.semilogy(
        tau,
        distance[400] * np.exp(-(levels[1] - levels[0]) * (tau - tau[400])),
        "k:",
        label="$\\exp(-\\mathrm{gap}\\,\\tau)$",
    )
    decay.set(xlabel="imaginary time $\\tau$", title="Imaginary time: decay", ylim=(1e-4, 2))
    decay.legend(frameon=False)
    spectrum.plot(energies, line, label="transform of real time")
    for n, level in enumerate(levels[:3]):
        spectrum.axvline(level, color="k", ls=":", lw=1, label=None if n else "eigensolver")
    spectrum.plot(lowest, 0, "v", color="C3", clip_on=False, label="$E_0$ of imaginary time")
    spectrum.set(xlabel="energy", ylabel="strength", xlim=(0, 6), title="The same energies")
    spectrum.legend(framealpha=1)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "paper_wick_rotation.png", dpi=120)


if __name__ == "__main__":
    main()
