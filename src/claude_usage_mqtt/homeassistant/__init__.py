"""What is announced to Home Assistant: a table of entities, and the discovery messages made from it. Pure."""
