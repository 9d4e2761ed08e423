"""What nginx keeps away from the instances, and what no log may say."""

import socket
import time
import uuid

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from tests.compose.conftest import Connect, FirstStart, Visitor, instance_of, leaks, secrets_of
from tests.compose.containers import Stack
from tests.support.publisher import Api

pytestmark = pytest.mark.end_to_end


# What a client may say of itself ----------------------------------------------------------------

FORGED = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Real-IP": "6.6.6.6",
    "Forwarded": "for=6.6.6.6;proto=https",
    "X-Forwarded-Proto": "https",
    "X_Real_IP": "6.6.6.6",
}


async def test_nobody_can_write_the_address_they_come_from(stack: Stack, connect: Connect):
    address = f"{stack.network}.201"

    client = await connect(additional_headers=FORGED, local_addr=(address, 0))
    name = instance_of(stack, client)
    await client.close()

    stack[name].wait_for_line(event="closed", client=client.client_id, address=address)
    assert not any("6.6.6.6" in log for log in stack.logs().values())


def test_nobody_can_claim_to_have_come_over_tls(stack: Stack):
    forged = {name.replace("-", "_"): value for name, value in FORGED.items()}

    through_nginx = Visitor(stack).ask("/login/", **forged).headers["Set-Cookie"]
    past_nginx = Visitor(stack, service="web").ask("/login/", **forged).headers["Set-Cookie"]

    assert "Secure" not in through_nginx
    assert "Secure" in past_nginx  # which is why nobody gets there


def test_nobody_can_move_the_site(stack: Stack):
    through_nginx = Visitor(stack).ask("/", Daphne_Root_Path="/evil")
    past_nginx = Visitor(stack, service="web").ask("/", Daphne_Root_Path="/evil")

    assert through_nginx.headers["Location"] == "/login/?next=/"
    assert past_nginx.headers["Location"].startswith("/evil")


@pytest.mark.parametrize("path", ["/login/", "/api/info"])
def test_only_hosts_of_the_site_are_answered(stack: Stack, path: str):
    assert Visitor(stack).ask(path, Host="evil.example").status == 400
    assert Visitor(stack).ask(f"http://evil.example{path}", Host="evil.example").status == 400


async def test_a_websocket_needs_a_host_of_the_site(stack: Stack, connect: Connect):
    with pytest.raises(InvalidStatus) as refused:
        await connect(additional_headers={"Host": "evil.example"})

    assert refused.value.response.status_code == 400


# Bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "size_bytes"), [("/api/publish", 3_000_000), ("/login/", 20_000), ("/", 2_000_000)]
)
def test_a_body_that_is_too_big_is_refused(stack: Stack, path: str, size_bytes: int):
    answer = Visitor(stack, host=202).ask(path, method="POST", body=b"a" * size_bytes)

    assert answer.status == 413


def test_a_header_that_is_too_big_is_refused(stack: Stack):
    assert Visitor(stack).ask("/health", X_Long="a" * 9_000).status == 400


@pytest.mark.parametrize(
    "start",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n",
    ],
)
def test_a_header_that_does_not_end_is_not_waited_for(stack: Stack, start: bytes):
    started_at = time.monotonic()
    with socket.create_connection((f"{stack.network}.2", 8080), timeout=10) as slow:
        slow.sendall(start)
        slow.settimeout(0.5)
        is_open = True
        while is_open and time.monotonic() < started_at + 10:
            try:
                slow.sendall(b"X")
                is_open = slow.recv(1000) != b""
            except TimeoutError:
                continue
            except OSError:
                is_open = False

    assert not is_open
    assert time.monotonic() - started_at < 8


def test_passwords_cannot_be_tried_fast(stack: Stack):
    visitor = Visitor(stack, host=203)

    statuses = [visitor.ask("/login/", method="POST").status for _ in range(15)]

    assert statuses[:5] == [403] * 5  # no form of ours
    assert 429 in statuses
    assert visitor.ask("/login/").status == 200


# Logs -------------------------------------------------------------------------------------------


async def test_no_secret_of_anybody_is_logged(
    stack: Stack, first: FirstStart, connect: Connect, api: Api
):
    mark = f"mark{uuid.uuid4().hex}"
    query = f"?token={mark}&cf_ws_frame_ping_pong={mark}"
    visitor = Visitor(stack, host=204)
    headers = {"Referer": f"http://localhost/{query}", "Cookie": f"sessionid={mark}"}
    headers |= {"X_API_Key": mark, "Authorization": f"Bearer {mark}", "User_Agent": mark}

    for path in ("/", "/login/", "/admin/", "/nowhere", "/api/info", "/health", "/static/none.css"):
        visitor.ask(path + query, **headers)
        visitor.ask(path + query, method="POST", body=f"password={mark}", **headers)
    for path in ("/api/publish", "/login/"):
        too_big = visitor.ask(path + query, method="POST", body=b"a" * 3_000_000, **headers)
        assert too_big.status == 413
    assert visitor.ask(f"/login/{query}", Host="evil.example", **headers).status == 400
    assert visitor.ask(f"/health{query}&{'a' * 9_000}").status == 414
    for _ in range(15):  # beyond the limit of sign-ins
        visitor.ask(f"/login/{query}", method="POST", **headers)
    client = await connect()
    client.url += query
    await connect(client, additional_headers={"X-Marked": mark})
    with pytest.raises(InvalidStatus):
        await connect(client, origin="http://evil.example")
    send_garbage(stack, f"GET /{query} HTTP/9.9\r\n\r\n", f"GET /{query}\x00 HTTP/1.1\r\n\r\n")

    secrets = {"mark": mark, **secrets_of(stack)}
    stack["nginx"].wait_for_line(path="/connection/websocket", status=403)
    assert leaks(stack, secrets) == []


def send_garbage(stack: Stack, *requests: str) -> None:
    for request in requests:
        with socket.create_connection((f"{stack.network}.2", 8080), timeout=5) as connection:
            connection.sendall(request.encode())
            assert connection.recv(1000)


async def test_no_query_is_logged_while_instances_fail(stack: Stack, first: FirstStart):
    mark = f"mark{uuid.uuid4().hex}"
    down = [stack[name] for name in ("instance-1", "instance-2")]
    for container in down:
        container.kill()
    try:
        async with aiohttp.ClientSession(headers={"X-API-Key": first.api_key}) as session:
            for _ in range(6):
                url = f"{stack.url}/api/info?token={mark}"
                async with session.post(url, json={}) as response:
                    assert response.status == 200
    finally:
        for container in down:
            container.start()
        for container in down:
            container.wait_healthy()

    tried = [line for line in stack["nginx"].lines(path="/api/info") if "," in line["upstream"]]
    assert tried  # somebody was down, and another answered
    assert leaks(stack, {"mark": mark}) == []
