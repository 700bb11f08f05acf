"""The quantum dynamic equation: mathematics only, written for one point and batched by `vmap`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
