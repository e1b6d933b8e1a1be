"""The broker: connections to it, and what is retained there. The only place that imports paho."""
