"""A subscription's usage, and what follows from it.

Pure: no I/O, and no clock other than the one passed in.
"""
