"""The usage of a Claude subscription: for MQTT and Home Assistant, and as a library."""

__version__ = "0.1.0"
