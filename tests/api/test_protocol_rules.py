"""Rules of the server API that nothing else proves."""

import pytest
from django.test import AsyncClient

from tests.api.conftest import KEY

PRO_METHODS = [
    "connections",
    "update_user_status",
    "get_user_status",
    "delete_user_status",
    "block_user",
    "unblock_user",
    "revoke_token",
    "invalidate_user_tokens",
    "device_register",
    "send_push_notification",
]


@pytest.mark.rule("api-always-needs-key")
async def test_an_insecure_server_still_asks_for_a_key(configured, settings):
    settings.REALTIME = {**settings.REALTIME, "INSECURE": True}

    response = await AsyncClient().post(
        "/api/info", "{}", content_type="application/json", headers={"X-API-Key": "wrong"}
    )

    assert (response.status_code, response.content) == (401, b"")


@pytest.mark.rule("api-pro-methods-404")
@pytest.mark.parametrize("method", PRO_METHODS)
async def test_a_method_of_centrifugo_pro_is_not_found(configured, method):
    response = await AsyncClient().post(
        f"/api/{method}", "{}", content_type="application/json", headers={"X-API-Key": KEY}
    )

    assert response.status_code == 404


@pytest.mark.rule("api-transport-104-404")
async def test_in_transport_mode_a_method_that_nobody_has_is_404(call):
    mode = {"X-Centrifugo-Error-Mode": "transport"}

    answer = await call("rpc", {"method": "nothing"}, headers=mode)

    assert (answer.status, answer.json) == (404, {"code": 104, "message": "not found"})


@pytest.mark.rule("api-history-not-clamped")
async def test_a_history_is_read_beyond_the_limit_for_clients(call, kept, settings):
    settings.REALTIME = {**settings.REALTIME, "HISTORY_MAX_PUBLICATIONS": 3}
    for number in range(5):
        await call("publish", {"channel": kept, "data": number})

    for limit in (-1, 4):
        result = (await call("history", {"channel": kept, "limit": limit})).result
        assert len(result["publications"]) == (5 if limit < 0 else limit)
