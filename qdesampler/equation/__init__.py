"""The quantum dynamic equation: mathematics only, written for one point and batched by `vmap`."""

from qdesampler.equation.hamiltonian import Hamiltonian as Hamiltonian
from qdesampler.equation.laplacian import estimate_gradient_and_laplacian as estimate_gradient_and_laplacian
from qdesampler.equation.laplacian import gradient_and_laplacian as gradient_and_laplacian
