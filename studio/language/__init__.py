"""The words of the page, in every language it speaks.

Imports `system`.
"""
