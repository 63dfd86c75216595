"""Neodragon Studio: what people touch, a command line and a page around the engine."""

__version__ = "0.2.0"
