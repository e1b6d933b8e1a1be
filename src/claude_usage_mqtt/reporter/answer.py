"""From an ask to its answer: the source is polled once, whatever happens there."""

from __future__ import annotations

from datetime import timedelta

from claude_usage_mqtt.clock import Clock
from claude_usage_mqtt.errors import ApiError, CredentialsError, InvalidResponse
from claude_usage_mqtt.reporter.limit import SPACING
from claude_usage_mqtt.sources.reporter_messages import MAX_REQUESTS, Answer, Ask, Busy
from claude_usage_mqtt.sources.source import Source


def answer_with(source: Source, ask: Ask, clock: Clock) -> Answer:
    """Poll the source and return the answer to an ask; bounded, never raises, runs in a worker thread."""
    try:
        result = source.poll(ask.account or "", clock, may_retry=False)
    except Exception as fault:  # noqa: BLE001 - a worker must always report; the text could hold outside data
        sentence = f"The usage could not be read ({type(fault).__name__}); update this program."
        return Answer(id=ask.id, account=ask.account, requests=1, error=InvalidResponse(sentence))
    requests = min(result.requests, MAX_REQUESTS)
    if result.reading is not None:
        return Answer(id=ask.id, account=ask.account, requests=requests, login=result.login, reading=result.reading)
    if isinstance(result.error, ApiError | CredentialsError):
        return Answer(id=ask.id, account=ask.account, requests=requests, error=result.error)
    nothing_new = Busy(detail="There is nothing new.", retry_after=timedelta(seconds=SPACING))
    return Answer(id=ask.id, account=ask.account, requests=requests, busy=nothing_new)
