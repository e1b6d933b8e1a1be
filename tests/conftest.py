"""For all tests: property tests look for new examples at a desk, and run the same ones each time in CI."""

import os

from hypothesis import settings

# No deadline: how long an example takes depends on what else the machine does.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
