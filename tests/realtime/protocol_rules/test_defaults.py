"""What holds where nothing is set. Source: Centrifugo, defaults of the client section."""

import pytest

from realtime.conf import Settings
from realtime.server.server import HeliographServer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, marks=mark, id=name)
        for name, value, mark in [
            ("ping_interval_seconds", 25, pytest.mark.rule("default-ping-interval-25")),
            ("pong_timeout_seconds", 8, pytest.mark.rule("default-pong-timeout-8")),
            ("stale_close_seconds", 10, pytest.mark.rule("default-stale-10")),
            ("channel_limit", 128, pytest.mark.rule("default-channel-limit-128")),
            ("queue_max_bytes", 1_048_576, pytest.mark.rule("default-queue-1-mib")),
            ("presence_renewal_seconds", 27, pytest.mark.rule("default-presence-renewal-27")),
            ("presence_ttl_seconds", 60, pytest.mark.rule("default-presence-ttl-60")),
            ("position_check_seconds", 40, pytest.mark.rule("default-position-check-40")),
            ("history_max_publications", 300, pytest.mark.rule("default-history-300")),
            ("recovery_max_publications", 300, pytest.mark.rule("default-recovery-300")),
            ("user_connection_limit", 0, pytest.mark.rule("default-user-limit-off")),
            ("command_concurrency_limit", 1, pytest.mark.rule("default-concurrency-off")),
            ("idempotency_ttl_seconds", 300, pytest.mark.rule("idempotency-five-minutes")),
            (
                "history_meta_ttl_seconds",
                720 * 3600,
                pytest.mark.rule("default-history-meta-ttl-720h"),
            ),
        ]
    ],
)
def test_a_setting_that_is_not_set_is_the_references(name, value):
    assert getattr(Settings(), name) == value


@pytest.mark.rule("close-no-day-limit")
def test_no_connection_ends_for_its_age():
    server = HeliographServer(None, ["tcp:port=0:interface=127.0.0.1"], on_ready=lambda: None)

    assert server.websocket_timeout < 0  # Daphne reads that as never
