"""Annealers behind one protocol: Ising problems in, reads out, and what may be believed of their law."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
