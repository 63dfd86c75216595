"""Neodragon Studio: what people touch, a command line and a page around the engine."""

from studio.system import environment

__version__ = "0.2.0"

environment.clean()
