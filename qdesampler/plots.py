"""Plots by name: of draws, trials, ladders, ground states, imaginary-time paths and annealers' reads."""

from qdesampler.diagnostics import draw_plots as draw_plots
from qdesampler.diagnostics import plot_comparison as plot_comparison
from qdesampler.diagnostics import plot_evolution as plot_evolution
from qdesampler.diagnostics import plot_ground_state as plot_ground_state
from qdesampler.diagnostics import plot_ladder as plot_ladder
from qdesampler.diagnostics import plot_reads as plot_reads
from qdesampler.diagnostics import plot_trial as plot_trial
from qdesampler.diagnostics import plot_zero_variance as plot_zero_variance
from qdesampler.diagnostics import save_plots as save_plots
