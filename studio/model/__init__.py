"""The full-size model on this machine: its published weights fetched, a pack built of them.

Nothing here contacts an address but `download`, and that only when it is told to.
"""
