"""The quantum dynamic equation: mathematics only, written for one point and batched by `vmap`."""
