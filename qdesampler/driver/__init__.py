"""The driver of chains: compiled once, checkpoints that resume bit for bit, stores, several processes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
