import itertools
import logging

import pytest

from realtime import permissions
from realtime.permissions import (
    check_name,
    may_publish,
    may_read_history,
    may_read_presence,
    may_subscribe,
)
from realtime.protocol.errors import BadRequest
from realtime.snapshot import ChannelOptions

CLOSED = ChannelOptions()


@pytest.mark.rule("subscribe-name-255-bytes", "name-255-bytes", "name-nothing-else-reserved")
@pytest.mark.parametrize(
    "channel", ["news", "chat:room:1", "$x", "a b", "a*?[{}", "a\0b", "a\n", "#4", "x" * 255]
)
def test_any_ascii_name_of_255_bytes_at_most_is_a_name(channel):
    check_name(channel, CLOSED)


@pytest.mark.rule("subscribe-name-255-bytes", "name-255-bytes", "name-ascii")
@pytest.mark.parametrize("channel", ["", "x" * 256, "café", "😀", "\ud800"])
def test_other_names_are_refused(channel):
    with pytest.raises(BadRequest):
        check_name(channel, CLOSED)


@pytest.mark.rule("name-regex-after-namespace", "name-regex-whole", "option-channel-regex")
@pytest.mark.parametrize(
    ("channel", "is_accepted"),
    [
        ("chat:room1", True),
        ("$chat:room1", True),
        ("room1", True),
        ("chat:", False),
        ("chat:Room", False),
        ("chat:room 1", False),
        ("chat:room1\n", False),
        ("$room1", False),  # without a namespace the whole name counts, with the $
        ("chat:room:1", False),
    ],
)
def test_the_regex_looks_at_what_follows_the_namespace(channel, is_accepted):
    options = ChannelOptions(channel_regex="^[a-z0-9]+$")

    if is_accepted:
        check_name(channel, options)
    else:
        with pytest.raises(BadRequest):
            check_name(channel, options)


@pytest.mark.rule("name-ascii")
def test_a_regex_may_allow_other_characters_within_255_bytes():
    options = ChannelOptions(channel_regex="^é+$")

    check_name("chat:" + "é" * 125, options)
    with pytest.raises(BadRequest):
        check_name("chat:" + "é" * 126, options)


@pytest.mark.rule("option-channel-regex")
@pytest.mark.parametrize(
    ("pattern", "accepted", "refused"),
    [
        (r"^\w+$", "aZ_9", "ä"),
        (r"^\d+$", "42", "٤٢"),
        (r"^a\sb$", "a b", "a\u2003b"),
        (r"^[[:alpha:]]+$", "abc", "a:"),
        (r"^\p{Greek}+$", "λόγος", "logos"),
        (r"^a.c$", "aéc", "a\nc"),
        (r"^a$", "a", "a\n"),
        (r"^a\z", "a", "a\n"),
        (r"\n$", "a\n", "a"),
        (r"b|c", "abc", "ad"),
        (r"^\Qa.b\E$", "a.b", "axb"),
    ],
)
def test_a_regex_means_what_it_means_to_re2(pattern, accepted, refused):
    options = ChannelOptions(channel_regex=pattern)

    check_name(f"chat:{accepted}", options)
    with pytest.raises(BadRequest):
        check_name(f"chat:{refused}", options)


def test_a_repetition_in_a_repetition_costs_no_more_than_another():
    # An engine that tries every way to split the letters would not come back from this.
    with pytest.raises(BadRequest):
        check_name("chat:" + "a" * 249 + "!", ChannelOptions(channel_regex="^([a-z0-9]+-?)+$"))


def test_a_regex_is_compiled_once():
    options = ChannelOptions(channel_regex="^once-[0-9]+$")
    permissions._pattern.cache_clear()

    for number in range(100):
        check_name(f"chat:once-{number}", options)

    kept = permissions._pattern.cache_info()
    assert (kept.misses, kept.hits) == (1, 99)


@pytest.mark.rule("option-channel-regex")
@pytest.mark.parametrize("pattern", [r"^(past)\1$", "^(?=past)", r"^past\Z", "(past", "past\ud800"])
def test_a_regex_that_came_past_the_model_allows_no_name_and_is_told_once(caplog, capfd, pattern):
    caplog.set_level(logging.ERROR, "realtime.permissions")
    permissions._pattern.cache_clear()

    for name in ("past", "pastpast", ""):
        with pytest.raises(BadRequest):
            check_name(f"chat:{name}", ChannelOptions(channel_regex=pattern))

    [record] = caplog.records
    assert repr(pattern) in record.getMessage()
    # RE2 would write lines of its own, past every logger.
    assert "re2.cc" not in capfd.readouterr().err


@pytest.mark.rule("name-private-needs-token")
@pytest.mark.parametrize("user", ["", "4"])
@pytest.mark.parametrize("insecure", [True, False])
def test_a_private_channel_never_opens_without_a_token(user, insecure):
    options = ChannelOptions(
        allow_subscribe_for_client=True,
        allow_subscribe_for_anonymous=True,
        allow_user_limited_channels=True,
    )

    assert not may_subscribe("$x", options, user, insecure=insecure)
    assert not may_subscribe("$x#4", options, user, insecure=insecure)


@pytest.mark.rule("subscribe-else-103", "option-defaults-off")
def test_everything_is_closed_by_default():
    assert not may_subscribe("news", CLOSED, "4", insecure=False)
    assert not may_subscribe("talk#4", CLOSED, "4", insecure=False)


@pytest.mark.rule(
    "subscribe-for-client", "subscribe-for-anonymous", "option-anonymous-relaxes-only"
)
@pytest.mark.parametrize(
    ("for_client", "for_anonymous", "user", "is_allowed"),
    [
        (True, False, "4", True),
        (True, False, "", False),
        (True, True, "", True),
        (False, True, "", False),
        (False, True, "4", False),
    ],
)
def test_anonymous_only_widens_what_users_may(for_client, for_anonymous, user, is_allowed):
    options = ChannelOptions(
        allow_subscribe_for_client=for_client, allow_subscribe_for_anonymous=for_anonymous
    )

    assert may_subscribe("news", options, user, insecure=False) is is_allowed


@pytest.mark.rule(
    "subscribe-user-limited-listed",
    "subscribe-user-limited-others-103",
    "name-user-limited-last",
    "name-empty-user-not-listed",
    "option-user-limited",
)
@pytest.mark.parametrize(
    ("channel", "user", "is_allowed"),
    [
        ("talk#42", "42", True),
        ("talk#42,43", "43", True),
        ("talk#42,43", "4", False),
        ("talk#1,2", "12", False),
        ("talk#1", "1,2", False),
        ("talk#1,2", "1,2", False),
        ("talk#1#2", "2", True),
        ("talk#1#2", "1", False),
        ("talk#", "", False),
        ("talk#1,,2", "", False),
        ("#42", "42", True),
        ("talk#42 ", "42", False),
    ],
)
def test_a_user_limited_channel_is_for_the_users_after_its_last_boundary(channel, user, is_allowed):
    options = ChannelOptions(
        allow_user_limited_channels=True,
        allow_subscribe_for_client=True,
        allow_subscribe_for_anonymous=True,
    )

    assert may_subscribe(channel, options, user, insecure=False) is is_allowed


@pytest.mark.rule("name-user-limited-off", "option-user-limited")
def test_with_the_option_off_the_boundary_means_nothing():
    options = ChannelOptions(allow_subscribe_for_client=True)

    assert may_subscribe("talk#42", options, "7", insecure=False)


@pytest.mark.rule("subscribe-insecure")
def test_insecure_mode_opens_all_but_private_channels():
    assert may_subscribe("news", CLOSED, "", insecure=True)
    assert may_subscribe(
        "talk#4", ChannelOptions(allow_user_limited_channels=True), "7", insecure=True
    )


RULES = {"publish": may_publish, "history": may_read_history, "presence": may_read_presence}


@pytest.mark.rule(
    "publish-for-client",
    "publish-for-subscriber",
    "publish-for-anonymous",
    "publish-insecure",
    "presence-for-client",
    "presence-for-subscriber",
    "presence-for-anonymous",
    "presence-insecure",
    "history-for-client",
    "history-for-subscriber",
    "history-for-anonymous",
    "history-insecure",
    "option-anonymous-relaxes-only",
)
@pytest.mark.parametrize("act", RULES)
@pytest.mark.parametrize(
    ("for_client", "for_subscriber", "for_anonymous", "user", "is_subscribed", "insecure"),
    list(itertools.product([0, 1], [0, 1], [0, 1], ["", "4"], [0, 1], [0, 1])),
)
def test_the_rules_of_an_act(
    act, for_client, for_subscriber, for_anonymous, user, is_subscribed, insecure
):
    options = ChannelOptions(
        **{
            f"allow_{act}_for_client": bool(for_client),
            f"allow_{act}_for_subscriber": bool(for_subscriber),
            f"allow_{act}_for_anonymous": bool(for_anonymous),
        }
    )

    is_allowed = RULES[act](
        options, user, is_subscribed=bool(is_subscribed), insecure=bool(insecure)
    )

    has_identity = bool(user) or for_anonymous
    is_granted = for_client or (for_subscriber and is_subscribed)
    assert is_allowed is bool(insecure or (has_identity and is_granted))


@pytest.mark.rule("option-acts-apart")
@pytest.mark.parametrize("act", RULES)
def test_one_act_says_nothing_of_another(act):
    others = {
        f"allow_{other}_for_{whom}": True
        for other in [*RULES, "subscribe"]
        for whom in ("client", "subscriber", "anonymous")
        if other != act and (other, whom) != ("subscribe", "subscriber")
    }

    assert not RULES[act](ChannelOptions(**others), "4", is_subscribed=True, insecure=False)
