import base64

import pytest
from django.test import AsyncClient

from api.methods import METHODS
from realtime import services
from realtime.models import CHANNEL_METHODS, SERVER_METHODS
from tests.api.conftest import KEY


def test_scopes_can_name_every_method():
    of_other_addresses = {"connections", "namespaces", "metrics"}

    assert set(METHODS) | of_other_addresses == {*CHANNEL_METHODS, *SERVER_METHODS}


@pytest.mark.rule("api-post-json", "api-result-200", "api-publish-result")
async def test_publish_answers_with_the_position(call, kept):
    first = await call("publish", {"channel": kept, "data": {"n": 1}})
    second = await call("publish", {"channel": kept, "data": {"n": 2}})

    assert first.content_type == "application/json"
    assert first.result["offset"] == 1
    assert second.result == {"offset": 2, "epoch": first.result["epoch"]}


@pytest.mark.rule("api-zero-values", "api-empty-result", "api-publish-skip-history")
async def test_publish_without_history_answers_with_nothing(call, kept):
    plain = await call("publish", {"channel": "plain:x", "data": 1})
    skipped = await call("publish", {"channel": kept, "data": 1, "skip_history": True})

    assert plain.body == b'{"result":{}}'
    assert skipped.body == b'{"result":{}}'


@pytest.mark.rule("payload-bytes-kept", "api-raw-payload")
@pytest.mark.parametrize("data", ['{ "a" : 1.50 }', '"\\u00e9"', "[1e2]", "0", '"é"', '""'])
async def test_the_publishers_bytes_are_kept(call, kept, data):
    await call("publish", ('{"channel":"' + kept + '","data":' + data + "}").encode())

    answer = await call("history", {"channel": kept, "limit": -1})

    assert ('"data":' + data).encode() in answer.body


@pytest.mark.rule("api-base64-above-data", "api-publish-b64data")
async def test_base64_stands_above_data(call, kept, stored):
    b64data = base64.b64encode(b'{"b": 1}').decode()

    await call("publish", {"channel": kept, "data": {"a": 1}, "b64data": b64data})
    await call("publish", {"channel": kept, "data": {"a": 1}, "b64data": ""})

    assert await stored(kept) == [{"b": 1}, {"a": 1}]


@pytest.mark.rule("idempotency-original-position", "api-publish-idempotency-key")
async def test_a_repeat_with_the_same_idempotency_key_stores_once(call, kept, stored):
    publish = {"channel": kept, "data": 1, "idempotency_key": "one"}

    first = await call("publish", publish)
    second = await call("publish", publish)

    assert first.result == second.result
    assert await stored(kept) == [1]


@pytest.mark.rule("version-older-dropped", "api-publish-version")
async def test_an_older_version_is_not_stored(call, kept, stored):
    for version in (2, 1, 3):
        await call("publish", {"channel": kept, "data": version, "version": version})

    assert await stored(kept) == [2, 3]


@pytest.mark.rule("api-publish-tags")
async def test_tags_travel_with_the_publication(call, kept):
    await call("publish", {"channel": kept, "data": 1, "tags": {"a": "b"}})

    (publication,) = (await call("history", {"channel": kept, "limit": 1})).result["publications"]

    assert publication["tags"] == {"a": "b"}
    assert publication["offset"] == 1


@pytest.mark.rule("api-unknown-fields-ignored")
async def test_unknown_fields_are_ignored(call, kept, stored):
    await call("publish", {"channel": kept, "data": 1, "nonsense": [1], "temporary": True})

    assert await stored(kept) == [1]


@pytest.mark.rule("api-publish-delta-accepted")
@pytest.mark.parametrize("delta", [True, False, None])
async def test_delta_is_accepted(call, kept, stored, delta):
    await call("publish", {"channel": kept, "data": 1, "delta": delta})
    await call("broadcast", {"channels": [kept], "data": 2, "delta": delta})

    assert await stored(kept) == [1, 2]


@pytest.mark.rule("api-publish-version-epoch")
async def test_versions_compare_within_their_epoch(call, kept, stored):
    for version, epoch in ((2, "a"), (1, "a"), (1, "b")):
        await call(
            "publish",
            {"channel": kept, "data": epoch, "version": version, "version_epoch": epoch},
        )

    assert await stored(kept) == ["a", "b"]


@pytest.mark.rule("api-null-absent")
async def test_null_equals_absent(call, kept, stored):
    nothing = dict.fromkeys(["b64data", "tags", "idempotency_key", "version", "skip_history"])

    await call("publish", {"channel": kept, "data": 1, **nothing})

    assert await stored(kept) == [1]


@pytest.mark.rule("api-broadcast-responses")
async def test_broadcast_answers_for_each_channel_in_order(call, kept, stored):
    channels = [kept, "nope:x", "plain:x", ""]

    answer = await call("broadcast", {"channels": channels, "data": 5})

    good, unknown, plain, empty = answer.result["responses"]
    assert good["result"]["offset"] == 1
    assert unknown == {"error": {"code": 102, "message": "unknown channel"}}
    assert plain == {"result": {}}
    assert empty == {"error": {"code": 107, "message": "bad request"}}
    assert await stored(kept) == [5]


@pytest.mark.rule("api-broadcast-no-channels-107", "api-broadcast-no-data-107")
@pytest.mark.parametrize("content", [{}, {"channels": []}, {"channels": None}])
async def test_broadcast_needs_channels_and_data(call, kept, content):
    assert (await call("broadcast", {"data": 1, **content})).error["code"] == 107
    assert (await call("broadcast", {"channels": [kept]})).error["code"] == 107


@pytest.mark.rule(
    "api-history-result",
    "api-history-position-alone",
    "api-history-not-clamped",
    "api-history-since",
)
async def test_history_gives_what_was_asked_for(call, kept):
    for number in range(1, 6):
        await call("publish", {"channel": kept, "data": number})
    everything = (await call("history", {"channel": kept, "limit": -1})).result
    epoch = everything["epoch"]

    async def read(**asked):
        result = (await call("history", {"channel": kept, **asked})).result
        assert (result["offset"], result["epoch"]) == (5, epoch)
        return [publication["data"] for publication in result["publications"]]

    assert await read(limit=-1) == [1, 2, 3, 4, 5]
    assert await read() == []
    assert await read(limit=2) == [1, 2]
    assert await read(limit=2, reverse=True) == [5, 4]
    assert await read(limit=-1, since={"offset": 3, "epoch": epoch}) == [4, 5]
    assert await read(limit=-1, since={"offset": 3}, reverse=True) == [2, 1]
    assert await read(limit=-1, since={}) == [1, 2, 3, 4, 5]


@pytest.mark.rule("api-history-epoch-112")
async def test_history_of_another_epoch_is_unrecoverable(call, kept):
    await call("publish", {"channel": kept, "data": 1})

    answer = await call("history", {"channel": kept, "since": {"offset": 1, "epoch": "other"}})

    assert answer.error == {"code": 112, "message": "unrecoverable position"}


@pytest.mark.rule("api-zero-values")
async def test_an_empty_history_writes_its_zeros(call, kept):
    result = (await call("history", {"channel": kept})).result

    assert result["publications"] == []
    assert result["offset"] == 0
    assert result["epoch"]


@pytest.mark.rule("api-history-remove")
async def test_history_remove_keeps_the_position(call, kept):
    await call("publish", {"channel": kept, "data": 1})

    answer = await call("history_remove", {"channel": kept})

    assert answer.body == b'{"result":{}}'
    history = (await call("history", {"channel": kept, "limit": -1})).result
    assert history["publications"] == []
    assert history["offset"] == 1


@pytest.mark.rule("api-zero-values")
async def test_presence_of_nobody_writes_its_zeros(call):
    assert (await call("presence", {"channel": "who:x"})).body == b'{"result":{"presence":{}}}'
    stats = await call("presence_stats", {"channel": "who:x"})
    assert stats.result == {"num_clients": 0, "num_users": 0}


@pytest.mark.rule("api-presence-off-108", "api-presence-stats-off-108", "api-history-off-108")
@pytest.mark.parametrize("method", ["history", "history_remove", "presence", "presence_stats"])
async def test_a_feature_that_is_off_is_not_available(call, method):
    answer = await call(method, {"channel": "plain:x"})

    assert answer.error == {"code": 108, "message": "not available"}


@pytest.mark.rule("api-zero-values")
async def test_without_instances_nothing_is_active(call):
    assert (await call("channels", {})).result == {"channels": {}}
    assert (await call("channels", {"pattern": "kept:*"})).result == {"channels": {}}
    assert (await call("info", {})).result == {"nodes": []}


@pytest.mark.rule("api-unanswered")
async def test_counts_are_written_with_who_did_not_answer(call, monkeypatch):
    async def achannels(pattern):
        return {"kept:a": 2, pattern: 1}, ["uid"]

    monkeypatch.setattr(services, "achannels", achannels)

    assert (await call("channels", {"pattern": "p"})).result == {
        "channels": {"kept:a": {"num_clients": 2}, "p": {"num_clients": 1}},
        "unanswered": ["uid"],
    }


@pytest.mark.parametrize(
    "content",
    [
        {"user": "42"},
        {},
        {"user": "42", "client": "c", "session": "s", "whitelist": ["a"]},
        {"user": "42", "disconnect": {"code": 4000, "reason": "go away"}},
        {"user": "42", "disconnect": {}},
    ],
)
async def test_disconnect_is_done_when_nobody_is_there(call, content):
    assert (await call("disconnect", content)).body == b'{"result":{}}'


@pytest.mark.rule("api-disconnect-3503", "api-disconnect-code-reason")
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, (3503, "force disconnect")),
        ({}, (3503, "force disconnect")),
        ({"code": 0, "reason": ""}, (3503, "force disconnect")),
        ({"code": 4500, "reason": "bye"}, (4500, "bye")),
        ({"code": 3000}, (3000, "force disconnect")),
    ],
)
async def test_disconnect_says_what_the_connections_get(call, monkeypatch, asked, expected):
    said = []

    async def adisconnect(user, *, code, reason, **_):
        said.append((code, reason))

    monkeypatch.setattr(services, "adisconnect", adisconnect)

    await call("disconnect", {"user": "42", "disconnect": asked})

    assert said == [expected]


@pytest.mark.rule("close-reason-123-bytes", "close-reason-never-json", "api-disconnect-codes-107")
@pytest.mark.parametrize(
    "asked",
    [
        {"reason": "a reason without a code"},
        {"code": 0, "reason": "x"},
        {"code": 1000},
        {"code": 2999},
        {"code": 5000},
        {"code": 70000},
        {"code": 3500, "reason": "x" * 124},
        {"code": 3500, "reason": "é" * 62},
        {"code": 3500, "reason": '{"reconnect": true}'},
        {"code": 3500, "reason": "42"},
    ],
)
async def test_disconnect_refuses_what_no_close_frame_could_carry(call, asked):
    answer = await call("disconnect", {"user": "42", "disconnect": asked})

    assert answer.error == {"code": 107, "message": "bad request"}


@pytest.mark.rule("api-unsubscribe-empty-channel")
async def test_unsubscribe_is_done_when_nobody_is_there(call):
    assert (await call("unsubscribe", {"user": "42", "channel": "plain:x"})).result == {}
    assert (await call("unsubscribe", {"user": "42"})).result == {}


@pytest.mark.rule(
    "name-namespace-unknown", "api-error-200", "api-channel-empty-107", "api-namespace-102"
)
@pytest.mark.parametrize("method", CHANNEL_METHODS)
async def test_every_method_with_a_channel_knows_namespaces(call, method):
    if method == "broadcast":
        return

    unknown = await call(method, {"channel": "nope:x", "user": "42", "data": 1})

    assert unknown.error == {"code": 102, "message": "unknown channel"}
    if method != "unsubscribe":
        empty = await call(method, {"channel": "", "data": 1})
        assert empty.error == {"code": 107, "message": "bad request"}


@pytest.mark.rule("api-rpc-unknown-104", "api-rpc-empty-107")
@pytest.mark.parametrize(
    ("content", "code"), [({}, 107), ({"method": ""}, 107), ({"method": "a", "params": [1]}, 104)]
)
async def test_no_extension_answers_a_call(call, content, code):
    message = {104: "not found", 107: "bad request"}[code]

    assert (await call("rpc", content)).error == {"code": code, "message": message}


@pytest.mark.rule("api-no-permissions")
async def test_regex_and_private_prefix_are_not_looked_at(call):
    assert (await call("publish", {"channel": "$plain:é", "data": 1})).result == {}


@pytest.mark.rule(
    "api-transport-mode-header",
    "api-transport-102-404",
    "api-transport-107-400",
    "api-transport-108-400",
    "api-transport-112-416",
)
@pytest.mark.parametrize(
    ("method", "content", "status", "code"),
    [
        ("publish", {"channel": "nope:x", "data": 1}, 404, 102),
        ("publish", {"channel": "kept:x"}, 400, 107),
        ("presence", {"channel": "plain:x"}, 400, 108),
        ("history", {"channel": "kept:x", "since": {"epoch": "other"}}, 416, 112),
    ],
)
async def test_in_transport_mode_errors_are_statuses(call, method, content, status, code):
    mode = {"X-Centrifugo-Error-Mode": "transport"}

    answer = await call(method, content, headers=mode)

    assert answer.status == status
    assert answer.json["code"] == code
    assert set(answer.json) == {"code", "message"}


@pytest.mark.rule("api-transport-mode-header")
@pytest.mark.rule("api-transport-mode-setting")
async def test_a_setting_asks_for_statuses_in_every_call(call, settings):
    settings.REALTIME = {**settings.REALTIME, "API_ERRORS_AS_STATUSES": True}

    answer = await call("publish", {"channel": "nope:x", "data": 1})

    assert (answer.status, answer.json) == (404, {"code": 102, "message": "unknown channel"})
    assert (await call("publish", {"channel": "plain:x", "data": 1})).result == {}


async def test_in_transport_mode_success_is_as_ever(call):
    mode = {"X-Centrifugo-Error-Mode": "transport"}

    assert (await call("publish", {"channel": "plain:x", "data": 1}, headers=mode)).result == {}


@pytest.mark.rule("api-unknown-method-404")
@pytest.mark.parametrize(
    "path", ["/api/nothing", "/api/", "/api/publish/", "/api/map_publish", "/api/METHODS"]
)
async def test_an_unknown_method_is_not_found(configured, path):
    response = await AsyncClient().post(path, {}, headers={"X-API-Key": KEY})

    assert response.status_code == 404


@pytest.mark.rule("api-other-verb-405")
@pytest.mark.parametrize("verb", ["get", "put", "delete", "patch", "head", "options"])
async def test_another_http_method_is_not_allowed(configured, verb):
    response = await getattr(AsyncClient(), verb)("/api/publish", headers={"X-API-Key": KEY})

    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"


@pytest.mark.rule("api-post-json")
async def test_cookies_and_forged_origins_play_no_part(configured):
    client = AsyncClient(enforce_csrf_checks=True)

    response = await client.post(
        "/api/publish",
        '{"channel":"plain:x","data":1}',
        content_type="text/plain",
        headers={"X-API-Key": KEY, "Origin": "https://evil.example"},
    )

    assert response.status_code == 200


@pytest.mark.rule("api-error-200", "api-error-never-temporary", "api-transport-100-500")
async def test_an_unexpected_failure_is_an_error_100_without_details(call, monkeypatch, caplog):
    async def apublish_item(item):
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(services, "apublish_item", apublish_item)

    answer = await call("publish", {"channel": "plain:x", "data": 1})
    in_transport_mode = await call(
        "publish",
        {"channel": "plain:x", "data": 1},
        headers={"X-Centrifugo-Error-Mode": "transport"},
    )

    assert answer.error == {"code": 100, "message": "internal server error"}
    assert in_transport_mode.status == 500
    assert b"secret detail" not in answer.body + in_transport_mode.body
    assert "a secret detail" in caplog.text
