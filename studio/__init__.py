"""Neodragon Studio: the command line and the page around the engine."""

from studio.system import environment

__version__ = "0.2.0"

environment.clean()
