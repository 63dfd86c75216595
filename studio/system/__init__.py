"""The machine: folders, settings, packs, power, one studio at a time, privacy.

Imports nothing of the studio.
"""
