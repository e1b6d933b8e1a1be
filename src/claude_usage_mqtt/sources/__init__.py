"""Where the usage comes from: credentials, the API, the status line, and the policy that decides when to ask.

The only place that knows the wire and the files.
"""
