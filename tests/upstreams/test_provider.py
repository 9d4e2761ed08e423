"""From what is configured to who answers."""

import asyncio

import pytest
from django.core.exceptions import ValidationError
from msgspec import Raw

from realtime import snapshot
from realtime.hooks import ApplicationError, CallFailed, Kind, Peer, RefreshAnswer, Request
from realtime.protocol.disconnects import Disconnect, Disconnected
from tests.support.fault_upstream import FaultUpstream, answer, echo, error500
from upstreams import client, configuration
from upstreams.models import Route, Upstream
from upstreams.provider import UpstreamProvider

pytestmark = pytest.mark.django_db


@pytest.fixture
def upstream():
    return Upstream.objects.create(
        name="backend", base_url="http://127.0.0.1:1/api/", allow_private_addresses=True
    )


def route(upstream, kind, match="", **fields):
    return Route.objects.create(upstream=upstream, kind=kind, match=match, **fields)


# Configuration -----------------------------------------------------------------------------------


def test_a_snapshot_holds_upstreams_and_routes(upstream):
    route(upstream, "rpc", "orders.total", path="/rpc", timeout_seconds=3)

    known = configuration.of(snapshot.load().parts)

    found = known.route(Kind.RPC, "orders.total")
    assert (found.upstream.name, found.path, found.timeout_seconds) == ("backend", "/rpc", 3.0)
    assert found.upstream.url == "http://127.0.0.1:1/api"


def test_any_change_makes_a_new_snapshot(upstream):
    known = snapshot.load()

    Upstream.objects.update(timeout_seconds=2)
    newer = snapshot.load_if_changed(known)
    Route.objects.bulk_create([Route(upstream=upstream, kind="connect")])

    assert newer is not known
    assert snapshot.load_if_changed(newer) is not newer


def test_a_whole_method_goes_before_the_longest_beginning(upstream):
    for match in ("*", "orders:*", "orders:open:*", "orders:total"):
        route(upstream, "rpc", match)

    known = configuration.load()

    for method, match in (
        ("orders:total", "orders:total"),
        ("orders:totals", "orders:*"),
        ("orders:open:1", "orders:open:*"),
        ("else", "*"),
    ):
        assert known.route(Kind.RPC, method).match == match


def test_an_upstream_that_is_off_answers_nothing(upstream):
    route(upstream, "rpc", "orders.total")
    Upstream.objects.update(is_enabled=False)

    assert configuration.load().route(Kind.RPC, "orders.total") is None


def test_what_was_written_past_the_model_is_left_out_and_told(upstream, caplog):
    Upstream.objects.create(name="good", base_url="https://example.com")
    Upstream.objects.filter(name="backend").update(base_url="gopher://x")
    route(upstream, "rpc", "a")

    known = configuration.load()

    assert [each.name for each in known.upstreams.values()] == ["good"]
    assert known.routes == {}
    assert "upstream backend cannot be used" in caplog.text


def test_a_secret_is_in_no_text_of_the_configuration(upstream):
    Upstream.objects.update(signing_secret="very-secret")

    assert "very-secret" not in repr(configuration.load())


# Models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", "http://127.0.0.1"),
        ("base_url", "http://[::1]/"),
        ("base_url", "http://2130706433"),
        ("base_url", "http://0.0.0.0"),
        ("base_url", "http://a@example.com"),
        ("base_url", "file:///etc/passwd"),
        ("timeout_seconds", 0),
        ("concurrency", 0),
        ("static_headers", ["a"]),
        ("static_headers", {"X-A": "1\r\nX-B: 2"}),
        ("static_headers", {"X A": "1"}),
        ("static_headers", {"Host": "evil"}),
        ("http_headers", {"a": 1}),
        ("http_headers", ["a:b"]),
        ("emulated_headers", [1]),
        ("status_transforms", {"a": 1}),
        ("status_transforms", [{"status_code": 404}]),
        ("status_transforms", [{"status_code": 404, "to_error": {"code": 1, "message": "x"}}]),
        ("status_transforms", [{"status_code": 200, "to_error": {"code": 500, "message": "x"}}]),
    ],
)
def test_a_field_that_makes_no_sense_is_refused_beside_it(field, value):
    row = Upstream(**{"name": "new", "base_url": "https://example.com", field: value})

    with pytest.raises(ValidationError) as refused:
        row.full_clean()

    assert set(refused.value.message_dict) == {field}


def test_an_upstream_with_all_fields_is_good():
    row = Upstream(
        name="new",
        base_url="http://127.0.0.1:8000/hooks",
        allow_private_addresses=True,
        static_headers={"X-Team": "blue"},
        emulated_headers=["authorization"],
        http_headers=["cookie"],
        status_transforms=[
            {"status_code": 404, "to_error": {"code": 1404, "message": "no", "temporary": True}},
            {"status_code": 410, "to_disconnect": {"code": 4510, "reason": "gone"}},
        ],
    )

    row.full_clean()


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"kind": "connect", "match": "x"}, "match"),
        ({"kind": "rpc", "match": ""}, "match"),
        ({"kind": "rpc", "match": "a*b"}, "match"),
        ({"kind": "publish", "is_safe": True}, "is_safe"),
        ({"kind": "nothing"}, "kind"),
        ({"kind": "connect", "path": "//evil.example/"}, "path"),
        ({"kind": "connect", "path": "relative"}, "path"),
        ({"kind": "connect", "path": "/a b"}, "path"),
        ({"kind": "connect", "timeout_seconds": 0}, "timeout_seconds"),
    ],
)
def test_a_route_that_makes_no_sense_is_refused_beside_the_field(upstream, fields, wrong):
    with pytest.raises(ValidationError) as refused:
        Route(upstream=upstream, **fields).full_clean()

    assert set(refused.value.message_dict) == {wrong}


def test_one_question_has_one_route(upstream):
    route(upstream, "rpc", "a")

    with pytest.raises(ValidationError):
        Route(upstream=upstream, kind="rpc", match="a").full_clean()


# Answering ---------------------------------------------------------------------------------------


def parts_of(url, *routes, **options):
    upstream = configuration.UpstreamConfig(
        1, "backend", url, "127.0.0.1", allow_private_addresses=True, **options
    )
    made = {
        (kind, match): configuration.RouteConfig(upstream, kind, match, path, is_safe, 2.0)
        for kind, match, path, is_safe in routes
    }
    names = frozenset(upstream.http_headers)
    return {configuration.PART: configuration.Configuration({1: upstream}, made, (), names)}


@pytest.fixture
async def backend():
    async with FaultUpstream() as upstream:
        yield upstream
    await client.close_of_this_loop()


@pytest.fixture
def provider():
    return UpstreamProvider()


@pytest.mark.parametrize(
    ("channel", "namespace"), [("chat:1", "chat"), ("news", ""), ("$chat:1", "chat")]
)
def test_a_channel_is_asked_about_by_its_namespace(provider, channel, namespace):
    parts = parts_of("http://127.0.0.1:1", (Kind.SUBSCRIBE, namespace, "/s", False))

    assert provider.find(Kind.SUBSCRIBE, channel, parts) is not None
    assert provider.find(Kind.SUBSCRIBE, "other:1", parts) is None
    assert provider.find(Kind.PUBLISH, channel, parts) is None


def test_without_routes_nothing_is_offered(provider):
    assert not provider.offers(Kind.RPC, {})
    assert not provider.offers(Kind.CONNECT, {})
    assert provider.headers({}) == frozenset()


def test_what_is_routed_is_offered(provider):
    parts = parts_of("http://127.0.0.1:1", (Kind.RPC, "a", "/", False), http_headers=("cookie",))

    assert provider.offers(Kind.RPC, parts)
    assert not provider.offers(Kind.CONNECT, parts)
    assert provider.headers(parts) == {"cookie"}


async def test_an_rpc_is_answered_over_http(provider, backend):
    backend.on("/rpc", echo())
    parts = parts_of(backend.url, (Kind.RPC, "a", "/rpc", False))

    answerer = provider.find(Kind.RPC, "a", parts)
    told = await answerer.ask(Request(Peer("c1", "42"), method="a", data=Raw(b'{"n":1}')))

    assert bytes(told) == b'{"n": 1}'
    assert backend.asked("/rpc")[0].json["method"] == "a"


async def test_a_status_that_means_nothing_is_a_failure(provider, backend):
    backend.respond("/rpc", {}, status=404)
    parts = parts_of(backend.url, (Kind.RPC, "a", "/rpc", False))

    with pytest.raises(CallFailed, match="status 404"):
        await provider.find(Kind.RPC, "a", parts).ask(Request(Peer("c1"), method="a"))


@pytest.mark.parametrize("kind", [Kind.RPC, Kind.REFRESH])
async def test_a_status_may_mean_an_error_or_a_close_but_not_to_a_refresh(provider, backend, kind):
    transforms = configuration.transforms_of(
        [
            {"status_code": 404, "to_error": {"code": 1404, "message": "not there"}},
            {"status_code": 503, "to_disconnect": {"code": 4503, "reason": "later"}},
        ]
    )
    backend.on("/a", answer({}, status=404))
    backend.on("/b", answer({}, status=503))
    outcomes = []
    for path in ("/a", "/b"):
        parts = parts_of(backend.url, (kind, "", path, False), status_transforms=transforms)
        with pytest.raises((ApplicationError, Disconnected, CallFailed)) as told:
            await provider.find(kind, "", parts).ask(Request(Peer("c1")))
        outcomes.append(told.value)

    if kind is Kind.REFRESH:
        assert [type(each) for each in outcomes] == [CallFailed, CallFailed]
    else:
        assert (outcomes[0].code, outcomes[0].message) == (1404, "not there")
        assert outcomes[1].disconnect == Disconnect(4503, "later")


async def test_a_refresh_without_an_answer_is_not_an_end(provider, backend):
    backend.on("/a", error500)
    parts = parts_of(backend.url, (Kind.REFRESH, "", "/a", False))

    with pytest.raises(CallFailed):
        await provider.find(Kind.REFRESH, "", parts).ask(Request(Peer("c1")))

    backend.respond("/a", {})
    told = await provider.find(Kind.REFRESH, "", parts).ask(Request(Peer("c1")))
    assert told == RefreshAnswer(is_expired=True)


async def test_the_log_says_why_there_was_no_answer_but_not_at_every_call(
    provider, backend, caplog
):
    backend.respond("/rpc", {"result": {"data": 1, "b64data": "%"}})
    parts = parts_of(backend.url, (Kind.RPC, "a", "/rpc", False))

    for _ in range(3):
        with pytest.raises(CallFailed):
            await provider.find(Kind.RPC, "a", parts).ask(Request(Peer("c1"), method="a"))

    (line,) = [each.getMessage() for each in caplog.records if each.name == "upstreams.provider"]
    assert line == "rpc of upstream backend (a) gave no answer of use: bad answer: not base64"


# The same question -------------------------------------------------------------------------------


async def all_of(provider, parts, peers, **fields):
    answerer = provider.find(Kind.RPC, "a", parts)
    questions = [answerer.ask(Request(peer, method="a", **fields)) for peer in peers]
    return await asyncio.gather(*questions)


async def test_the_same_question_of_a_user_is_asked_once_for_all_who_wait(provider, backend):
    backend.on("/rpc", echo(delay_seconds=0.1))
    parts = parts_of(backend.url, (Kind.RPC, "a", "/rpc", True))

    told = await all_of(provider, parts, [Peer(f"c{n}", "42") for n in range(10)], data=Raw(b"7"))

    assert [bytes(each) for each in told] == [b"7"] * 10
    assert backend.count("/rpc") == 1


async def test_other_users_headers_or_data_make_another_question(provider, backend):
    backend.on("/rpc", echo(delay_seconds=0.1))
    parts = parts_of(backend.url, (Kind.RPC, "a", "/rpc", True), http_headers=("cookie",))
    peers = [Peer("c", "42"), Peer("c", "43"), Peer("c", "42", headers={"cookie": "1"})]

    await all_of(provider, parts, peers)

    assert backend.count("/rpc") == 3


async def test_a_question_that_changes_something_is_asked_each_time(provider, backend):
    backend.on("/rpc", echo(delay_seconds=0.05))
    parts = parts_of(backend.url, (Kind.RPC, "a", "/rpc", False))

    await all_of(provider, parts, [Peer("c", "42")] * 3)

    assert backend.count("/rpc") == 3


async def test_who_goes_away_does_not_take_the_answer_from_the_others(provider, backend):
    backend.on("/rpc", echo(delay_seconds=0.1))
    parts = parts_of(backend.url, (Kind.RPC, "a", "/rpc", True))
    ask = provider.find(Kind.RPC, "a", parts).ask
    first = asyncio.create_task(ask(Request(Peer("c1", "42"), method="a", data=Raw(b"1"))))
    await backend.wait_asked("/rpc")
    second = asyncio.create_task(ask(Request(Peer("c2", "42"), method="a", data=Raw(b"1"))))
    await asyncio.sleep(0)

    first.cancel()

    assert bytes(await second) == b"1"
    assert backend.count("/rpc") == 1


async def test_an_answer_is_not_kept_for_who_comes_later(provider, backend):
    backend.on("/rpc", echo())
    parts = parts_of(backend.url, (Kind.RPC, "a", "/rpc", True))

    for _ in range(2):
        await all_of(provider, parts, [Peer("c", "42")])

    assert backend.count("/rpc") == 2
