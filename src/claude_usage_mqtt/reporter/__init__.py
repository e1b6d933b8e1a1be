"""The process on a machine where Claude Code is used: it answers the service's requests with readings.

It keeps no state, makes no decisions, and trusts nobody.
"""
