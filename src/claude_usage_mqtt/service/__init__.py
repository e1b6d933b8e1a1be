"""The running service: one loop that decides; workers and other threads only report to it."""
