"""A clock for the first minute: ``demo:clock`` ticks once a second, however many instances run.

Started by the instance where ``REALTIME_DEMO`` is on. Every instance publishes each second under
the same idempotency key; the first one is stored, and no leader has to be found.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Raw

from realtime.broker.broker import Broker
from realtime.protocol.errors import BrokerUnavailable, UnknownChannel
from realtime.publishing import PublishOptions, prepare
from realtime.snapshot import Snapshot

logger = logging.getLogger(__name__)

CHANNEL: Final = "demo:clock"


async def tick(broker: Broker, snapshot: Callable[[], Snapshot]) -> None:
    """Publish the time each second until cancelled."""
    while True:
        now = time.time()
        await asyncio.sleep(1.0 - now % 1.0)
        second = round(time.time())
        data = {"time": time.strftime("%H:%M:%S", time.localtime(second)), "unix": second}
        try:
            act = prepare(
                CHANNEL,
                Raw(msgspec.json.encode(data)),
                snapshot().options_of(CHANNEL),
                options=PublishOptions(idempotency_key=f"tick {second}"),
            )
            await broker.publish(act)
        except UnknownChannel:
            logger.debug("no namespace for %s yet", CHANNEL)
        except BrokerUnavailable as error:
            logger.warning("the demo clock missed a second: %s", error)
