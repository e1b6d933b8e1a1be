"""Check a device-discovery message (on standard input) with the schemas of the Home Assistant that is installed here.

Exit status 1 if Home Assistant would drop the device or one of its entities.
"""

import asyncio
import importlib
import json
import sys
import tempfile

from homeassistant.components.mqtt import discovery, schemas
from homeassistant.const import __version__
from homeassistant.core import HomeAssistant


def findings(message: dict) -> list[str]:
    """Return a line for whatever would be dropped."""
    payload = discovery.MQTTDiscoveryPayload(message)
    discovery._replace_all_abbreviations(payload)
    try:
        schemas.DEVICE_DISCOVERY_SCHEMA(payload)
    except Exception as error:
        return [f"the device: {error}"]
    found = []
    for key, component in payload["components"].items():
        config = discovery.MQTTDiscoveryPayload(component)
        platform = config.pop("platform")
        if not config:
            continue  # an entity that is removed
        config["device"] = payload["device"]
        discovery._merge_common_device_options(config, payload)
        try:
            importlib.import_module(f"homeassistant.components.mqtt.{platform}").DISCOVERY_SCHEMA(config)
        except Exception as error:
            found.append(f"{key}: {error}")
    return found


async def main() -> int:
    """Validate; templates can only be checked while a core object exists."""
    message = json.load(sys.stdin)
    core = HomeAssistant(tempfile.mkdtemp())
    found = findings(message)
    await core.async_stop(force=True)
    print(f"Home Assistant {__version__}: {len(message['components'])} entities, {len(found)} rejected")
    print("\n".join(found))
    return 1 if found else 0


sys.exit(asyncio.run(main()))
