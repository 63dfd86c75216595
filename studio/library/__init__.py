"""Clips and first frames on disk: found, marked, restored to their settings, verified.

Imports `jobs`, `media` and `system`.
"""
