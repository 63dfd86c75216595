"""The page in the browser: tabs, what they do, and the local server.

`desk` acts, `html` draws, the other modules are one tab each. Imports every room but `cli`.
"""
