"""ArviZ: conversion, summary, findings, plots and report; the only room that imports ArviZ and matplotlib."""

from qdesampler.diagnostics.backend_checks import ReadTemperature as ReadTemperature
from qdesampler.diagnostics.backend_checks import diagnose_backend as diagnose_backend
from qdesampler.diagnostics.backend_checks import read_temperature as read_temperature
from qdesampler.diagnostics.control_variates import ZeroVarianceWarning as ZeroVarianceWarning
from qdesampler.diagnostics.control_variates import zero_variance as zero_variance
from qdesampler.diagnostics.convert import to_datatree as to_datatree
from qdesampler.diagnostics.files import ResultFolder as ResultFolder
from qdesampler.diagnostics.files import write_atomically as write_atomically
from qdesampler.diagnostics.finding import Check as Check
from qdesampler.diagnostics.finding import Diagnosis as Diagnosis
from qdesampler.diagnostics.finding import Finding as Finding
from qdesampler.diagnostics.finding import verdict as verdict
from qdesampler.diagnostics.findings import diagnose as diagnose
from qdesampler.diagnostics.ladder import ladder_findings as ladder_findings
from qdesampler.diagnostics.ladder import ladder_summary as ladder_summary
from qdesampler.diagnostics.ladder_plot import plot_ladder as plot_ladder
from qdesampler.diagnostics.plots import PLOT_NAMES as PLOT_NAMES
from qdesampler.diagnostics.plots import Plot as Plot
from qdesampler.diagnostics.plots import draw_plots as draw_plots
from qdesampler.diagnostics.plots import save_plots as save_plots
from qdesampler.diagnostics.plots import write_plots as write_plots
from qdesampler.diagnostics.report import report as report
from qdesampler.diagnostics.summary import format_summary as format_summary
from qdesampler.diagnostics.summary import summary as summary
