"""What Home Assistant is told: a table of entities, and the discovery messages made from it. Pure."""
