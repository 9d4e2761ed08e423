"""2,000 numbered publications through 20 resets: none lost, none doubled, in order.

The publisher keeps up its rate throughout; each SDK talks through a proxy of its own that cuts its
connection, five times while it connects or subscribes, and alternates between two instances. The
frames that passed the proxy are the witness for what an SDK drops without a word.
"""

import asyncio
import itertools
import logging
from collections import Counter

import pytest

from tests.conftest import Pair
from tests.support.event_log import EventLog
from tests.support.frame_tap import FrameTap
from tests.support.oracle import check
from tests.support.proxy import Direction, FaultProxy
from tests.support.publisher import Publisher
from tests.support.servers import websocket_url

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(180), pytest.mark.on_the_ends]

logger = logging.getLogger(__name__)

PUBLICATIONS = 2_000
PER_SECOND = 240
CUTS_WHILE_LIVE = 18
CUTS_WHILE_CONNECTING = 5


class Cutter:
    """Cuts one client's connections, as publications go by."""

    def __init__(self, proxy: FaultProxy, log: EventLog, ports: list[int]) -> None:
        self.proxy = proxy
        self.log = log
        self.ports = itertools.cycle(ports)
        self.progress = asyncio.Event()
        self.sent = 0

    def note(self, sent: int) -> None:
        self.sent = sent
        self.progress.set()

    async def run(self) -> None:
        """Cut the live connection again and again, and some of its successors as they begin."""
        every = CUTS_WHILE_LIVE // CUTS_WHILE_CONNECTING
        early_cuts = iter(self._early_cuts())
        for number in range(1, CUTS_WHILE_LIVE + 1):
            await self._sent(number * (PUBLICATIONS - 100) // CUTS_WHILE_LIVE)
            early = next(early_cuts, None) if number % every == 0 else None
            if early is not None:
                self.proxy.cut_next_after(*early)
            after = len(self.log.events)
            self.proxy.target = next(self.ports)
            self.proxy.cut_all()
            await self.log.wait("subscribed", after=after)

    def _early_cuts(self) -> list[tuple[Direction, int]]:
        """Within either handshake, the connect command, the subscribe command and its answer.

        Measured on the first connection; a recovering subscribe is a little longer.
        """
        (link,) = self.proxy.links
        up, down = link.passed_bytes["up"], link.passed_bytes["down"]
        return [("up", 60), ("down", 80), ("up", up - 60), ("up", up - 5), ("down", down - 20)]

    async def _sent(self, count: int) -> None:
        while self.sent < count:
            self.progress.clear()
            await self.progress.wait()


@pytest.mark.rule("order-no-duplicates")
async def test_no_publication_is_lost_or_doubled_through_twenty_cuts(
    pair: Pair, connect, api_a, api_b, fresh, tmp_path
) -> None:
    channel = fresh("stream")
    publisher = Publisher(api_a, api_b)
    taps = {sdk: FrameTap(channel) for sdk in ("js", "python")}
    ports = [pair.b.port, pair.a.port]
    async with (
        FaultProxy(pair.a.port, tap=taps["js"].see) as js_proxy,
        FaultProxy(pair.a.port, tap=taps["python"].see) as python_proxy,
    ):
        proxies = {"js": js_proxy, "python": python_proxy}
        clients = {}
        for sdk, proxy in proxies.items():
            clients[sdk] = await connect(sdk, url=websocket_url(proxy.port))
            await clients[sdk].subscribed(channel)
        cutters = [Cutter(proxies[sdk], clients[sdk].log, ports) for sdk in proxies]

        async with asyncio.TaskGroup() as tasks:
            for cutter in cutters:
                tasks.create_task(cutter.run())
            publishing = tasks.create_task(
                publisher.run(
                    [channel],
                    per_second=PER_SECOND,
                    count=PUBLICATIONS,
                    batch=4,
                    on_batch=lambda sent: [cutter.note(sent) for cutter in cutters],
                )
            )
        for client in clients.values():
            await client.log.wait("pub", offset=PUBLICATIONS, timeout_seconds=30)
            client.log.write(tmp_path / "events.jsonl")

        events = publisher.log.events + [e for c in clients.values() for e in c.log.events]
        assert check(events) == []
        assert len(publisher.log.of("ok")) == PUBLICATIONS
        assert publishing.result() >= 200
        slowest = slowest_second(publisher.log)
        assert slowest >= 200, "the rate must hold throughout"
        logger.info("%.0f/s, in the slowest second %d", publishing.result(), slowest)
        for sdk, client in clients.items():
            offsets = [event["offset"] for event in client.log.published(channel)]
            assert offsets == list(range(1, PUBLICATIONS + 1)), sdk
            assert proxies[sdk].cut_count >= 20, sdk
            logger.info("%s: %d cuts", sdk, proxies[sdk].cut_count)
            judge_frames(taps[sdk], sdk)


def slowest_second(log: EventLog) -> int:
    """Return how many were acknowledged in the slowest second from one to the next."""
    times = [event["t"] for event in log.of("ok")]
    whole_seconds = int(times[-1] - times[0])
    counts = Counter(int(at - times[0]) for at in times)
    return min(counts[second] for second in range(whole_seconds))


def judge_frames(tap: FrameTap, sdk: str) -> None:
    """No offset twice on a connection, and none that the client said it had."""
    for session in tap.sessions:
        offsets = session.offsets
        first = session.asked_offset
        if not session.is_answered:
            continue
        assert offsets == sorted(set(offsets)), (sdk, session)
        if first is not None:
            assert session.recovered, (sdk, session)
            assert offsets == list(range(first + 1, first + 1 + len(offsets))), (sdk, session)
    recoveries = [s for s in tap.sessions if s.recovered and s.recovered_offsets]
    early = [s for s in tap.sessions if not s.is_answered]
    logger.info(
        "%s: %d recoveries carried %d publications; %d subscribes were cut off",
        sdk,
        len(recoveries),
        sum(len(session.recovered_offsets) for session in recoveries),
        len(early),
    )
    assert len(recoveries) >= 15, (sdk, len(recoveries))
