"""`python -m claude_usage_mqtt`."""

import sys

from claude_usage_mqtt.cli import main

sys.exit(main())
