"""Graphs compiled for a Hexagon NPU: ranges, 8 bits, contexts, and how close they come."""
