"""ArviZ: conversion, summary, findings, plots and report; the only room that imports ArviZ and matplotlib."""

import lazy_loader

# ArviZ registers a lazy module named `numpyro`. If a submodule of it were imported first after that,
# `numpyro.distributions` would lack names. So NumPyro comes first.
import numpyro  # noqa: F401

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
