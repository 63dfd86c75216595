"""The command line: one module for each command, `main` to choose among them.

May import every room; `page` only for `nds ui`.
"""
