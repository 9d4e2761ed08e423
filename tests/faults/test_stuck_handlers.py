"""A handler that hangs in a thread, where nothing can end it."""

import asyncio

import pytest

from tests.support import backed
from tests.support.raw_client import RawClient
from tests.support.servers import token

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60)]


async def test_a_server_ends_though_a_handler_hangs(tmp_path, database) -> None:
    with backed.running(tmp_path, database) as server:
        async with RawClient(server.a.websocket_url) as client:
            await client.connect(token("42"))
            await client.send_commands({"rpc": {"method": "hang", "data": {"seconds": 50}}})
            async with asyncio.timeout(10):
                while not (await client.call("rpc", method="hanging"))["data"]:
                    await asyncio.sleep(0.01)

        seconds = await asyncio.to_thread(server.a.terminate)

        assert seconds < 10
        assert "handlers are left that hang in their threads: 1" in server.a.log()
        server.a.start()
        server.wait_ready()
