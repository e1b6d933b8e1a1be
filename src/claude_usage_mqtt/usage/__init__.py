"""What a subscription's usage is and what follows from it.

Pure: no I/O, and no clock but the one passed in.
"""
