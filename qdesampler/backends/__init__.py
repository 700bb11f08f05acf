"""Annealers behind one protocol."""
