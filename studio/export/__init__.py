"""Clips in other formats, joined, and as a timeline for editors.

Imports `media` and `system`.
"""
