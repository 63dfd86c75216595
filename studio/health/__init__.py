"""The doctor: checks of this machine, one line each.

Imports `library`, `jobs`, `media` and `system`.
"""
