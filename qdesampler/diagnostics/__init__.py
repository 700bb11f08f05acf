"""ArviZ: conversion, summary, findings, plots and report; the only room that imports ArviZ and matplotlib."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
