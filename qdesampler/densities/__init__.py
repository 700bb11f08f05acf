"""Any density: sampling of Python functions, Stan and PyMC models, evaluated in batches and in parallel."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
