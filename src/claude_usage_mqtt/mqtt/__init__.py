"""The broker: connections to it, and what should stand there. The only place that imports paho."""
