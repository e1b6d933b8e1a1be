"""Hostile input: values of any kind, and documents in which anything may have any type."""

from datetime import UTC, datetime
from typing import Any, Final

from hypothesis import strategies as st

INJECTIONS: Final = (
    "{{ states('sensor.secret') }}",
    "{% for x in range(9**9) %}{% endfor %}",
    "a/+/#",
    "\x1b]0;owned\x07",
    "line\nbreak",
    "%s%n%(message)s{0.__class__}",
    "\ud800",
    "\u202e\u0000",
    "x" * 5000,
)

EXTREMES: Final = ("9999-12-31T23:59:59Z", "2026-11-20T13:00:30+00:00", 1e308, 10**400)

PAYLOADS: Final = (b"", b"{", b"[]", b"{}", b"42", b"null", b"[" * 100_000, b"\xff\xfe\x00")
"""Of any topic or file: nothing, half a document, the wrong kind, too deep, not text."""

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
    | st.sampled_from([*INJECTIONS, *EXTREMES]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def spoiled(document: Any) -> st.SearchStrategy[Any]:
    """Return documents of this shape in which anything may have any type."""
    if isinstance(document, dict):
        return st.fixed_dictionaries({}, optional={key: values | spoiled(value) for key, value in document.items()})
    if isinstance(document, list) and document:
        return st.lists(spoiled(document[0]) | values, max_size=4)
    return st.just(document) | values
