"""The usage endpoint over HTTP: the client, and the wire format turned into a reading."""
