"""The full-size model on this machine: download its published weights, build a pack from them.

Only `download` contacts an address, and only when the user asks for it.
"""
