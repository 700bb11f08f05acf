"""Imaginary-time solvers; each returns a `GroundState`."""
