"""Numerical analysis that shares nothing with the package: finite differences and quadrature in NumPy."""

import types

import numpy as np
import pytest

# Central differences of order eight.
_FIRST = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
_SECOND = {0: -205 / 72, 1: 8 / 5, 2: -1 / 5, 3: 8 / 315, 4: -1 / 560}


def derivative(f, t, h=2e-2):
    """Return df/dt of a function of a number."""
    return sum(weight * (f(t + k * h) - f(t - k * h)) for k, weight in _FIRST.items()) / h


def gradient(f, x, h=2e-2):
    """Return the gradient of a function of a point."""
    x = np.asarray(x, float)
    axes = np.eye(x.size)
    return np.array([derivative(lambda t, e=e: float(f(x + t * e)), 0.0, h) for e in axes])


def laplacian(f, x, h=2e-2):
    """Return the Laplacian of a function of a point, or of a batch of points given along the first axis."""
    x = np.asarray(x, float)
    total = 0.0
    for e in np.eye(x.shape[-1]):
        total = total + _SECOND[0] * np.asarray(f(x))
        for k in (1, 2, 3, 4):
            total = total + _SECOND[k] * (np.asarray(f(x + k * h * e)) + np.asarray(f(x - k * h * e)))
    return total / h**2


def line(lower, upper, points):
    """Return nodes, shape (points, 1), and their spacing: the trapezoid rule of what vanishes at the ends."""
    nodes = np.linspace(lower, upper, points)
    return nodes[:, None], nodes[1] - nodes[0]


@pytest.fixture(scope="session")
def numeric():
    return types.SimpleNamespace(derivative=derivative, gradient=gradient, laplacian=laplacian, line=line)
