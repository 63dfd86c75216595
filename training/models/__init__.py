"""Torch modules with the names and shapes of the published checkpoints."""
