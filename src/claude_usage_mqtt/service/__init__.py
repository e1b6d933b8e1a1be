"""The running service: one loop that decides, and workers and threads that only report to it."""
