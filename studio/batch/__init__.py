"""Prompt lists: bytes to rows, rows to jobs, results back into the list and a contact sheet.

Imports `jobs`, `media` and `system`.
"""
