"""A single named account continues what version 1 published as `default`. No I/O.

Version 1 called the only account `default` even if it had a name. Its numbers, events and limits go on under the name,
and its entities keep their ids, to which Home Assistant's history belongs.
"""

from __future__ import annotations

from collections.abc import Mapping

from claude_usage_mqtt.topics import DEFAULT_ACCOUNT, Topics, encode
from claude_usage_mqtt.untrusted import json_object


def inherited(found: Mapping[str, bytes], own: Topics) -> dict[str, bytes]:
    """Return what was retained for `default` as if it were the own account's; empty if there is nothing to continue.

    `found` holds retained messages by topic. An account that has its own topics continues those. What
    version 2 retained for `default` belongs to another service, one whose account has no name.
    """
    former = Topics(base=own.base, account=DEFAULT_ACCOUNT, prefix=own.prefix)
    if own.account == DEFAULT_ACCOUNT or found.get(own.health) or found.get(own.state) or found.get(former.memory):
        return {}
    pairs = ((former.state, own.state), (former.health, own.health))
    documents = {new: json_object(found.get(old)) for old, new in pairs}
    return {topic: encode(document | {"account": own.account}) for topic, document in documents.items() if document}
