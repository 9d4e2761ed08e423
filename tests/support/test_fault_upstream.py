"""The server that misbehaves does so in the way that its name says."""

import asyncio
import json
import subprocess
import sys
import urllib.request

import aiohttp
import pytest

from tests.support.fault_upstream import (
    FAULTS,
    MORE_FAULTS,
    FaultUpstream,
    answer,
    echo,
    error500,
    sequence,
)
from tests.support.processes import end, free_port, wait_until


async def outcome(upstream: FaultUpstream, path: str, *, seconds: float = 0.3) -> object:
    """Return what a careful caller is told: a status and body, or the failure's kind."""
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        try:
            async with session.post(
                upstream.url + path, json={"data": 7}, allow_redirects=False
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error)


async def test_well_behaved_answers_share_one_connection_and_are_remembered() -> None:
    async with FaultUpstream() as upstream, aiohttp.ClientSession() as session:
        upstream.respond("/a", {"x": 1}, status=201, headers={"x-y": "z"})
        upstream.on("/echo", echo())
        for number in range(3):
            body = {"data": number}
            async with session.post(f"{upstream.url}/echo?q=1", json=body) as response:
                assert await response.json() == {"result": {"data": number}}
        async with session.get(f"{upstream.url}/a", headers={"X-Ask": "1"}) as response:
            assert (response.status, response.headers["x-y"]) == (201, "z")

        assert upstream.connection_count == 1
        assert [asked.json["data"] for asked in upstream.asked("/echo")] == [0, 1, 2]
        assert upstream.requests[-1].headers["x-ask"] == "1"
        assert (upstream.requests[0].path, upstream.count("/echo")) == ("/echo?q=1", 3)
        assert await outcome(upstream, "/other") == (404, b"")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("hang", TimeoutError),
        ("trickle", TimeoutError),
        ("trickle_head", TimeoutError),
        ("garbage", aiohttp.ClientResponseError),
        ("reset", aiohttp.ClientOSError),
        ("cut", aiohttp.ClientPayloadError),
    ],
)
async def test_a_fault_of_the_transport_is_one_to_its_caller(fault, expected) -> None:
    async with FaultUpstream() as upstream:
        upstream.on("/x", {**FAULTS, **MORE_FAULTS}[fault])

        failure = await outcome(upstream, "/x")

        assert isinstance(failure, type)
        assert issubclass(failure, expected)
        await upstream.wait_idle()


async def test_a_fault_of_the_answer_is_answered() -> None:
    async with FaultUpstream() as upstream:
        for name in ("error500", "redirect", "garbage_body", "gzip_bomb"):
            upstream.on(f"/{name}", {**FAULTS, **MORE_FAULTS}[name])

        assert (await outcome(upstream, "/error500"))[0] == 500
        assert (await outcome(upstream, "/redirect"))[0] == 302
        with pytest.raises(UnicodeDecodeError):
            json.loads((await outcome(upstream, "/garbage_body"))[1])
        assert (await outcome(upstream, "/gzip_bomb", seconds=5))[1].startswith(b"\x1f\x8b")


async def test_a_huge_body_goes_on_for_as_long_as_somebody_reads() -> None:
    async with FaultUpstream() as upstream, aiohttp.ClientSession() as session:
        upstream.on("/huge", MORE_FAULTS["huge"])
        async with session.get(f"{upstream.url}/huge") as response:
            assert len(await response.content.readexactly(2**22)) == 2**22
            assert upstream.in_flight == 1
        await upstream.wait_idle()


async def test_a_sequence_ends_with_its_last_one() -> None:
    async with FaultUpstream() as upstream:
        upstream.on("/x", sequence([answer(b"first"), error500, answer(b"last")]))

        statuses = [(await outcome(upstream, "/x"))[0] for _ in range(4)]

        assert statuses == [200, 500, 200, 200]


async def test_it_counts_what_is_under_way_and_begins_again_on_its_port() -> None:
    upstream = FaultUpstream()
    async with upstream:
        upstream.on("/slow", echo(delay_seconds=0.1))
        await asyncio.gather(*(outcome(upstream, "/slow", seconds=5) for _ in range(5)))
        assert upstream.most_in_flight == 5
    assert issubclass(await outcome(upstream, "/slow"), aiohttp.ClientConnectorError)
    async with upstream:
        assert (await outcome(upstream, "/slow"))[0] == 200


def test_it_runs_in_a_thread() -> None:
    with FaultUpstream() as upstream:
        upstream.respond("/x", "text")
        with urllib.request.urlopen(f"{upstream.url}/x", timeout=5) as response:
            assert response.read() == b"text"
        assert upstream.count("/x") == 1


def test_it_runs_in_a_process(tmp_path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tests.support.fault_upstream", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        for path in ("/echo", "/echo/10"):
            with urllib.request.urlopen(url + path, data=b'{"data":1}', timeout=5) as response:
                assert json.load(response) == {"result": {"data": 1}}
        with urllib.request.urlopen(f"{url}/counts", timeout=5) as response:
            assert json.load(response)["counts"] == {"/echo": 1, "/echo/10": 1, "/counts": 1}
    finally:
        end(process)
        process.stdout.close()
    wait_until(lambda: process.poll() is not None, timeout_seconds=5, what="its end")
