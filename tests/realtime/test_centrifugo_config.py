import json
from dataclasses import fields
from pathlib import Path

import pytest

from project import engine
from realtime import centrifugo_config, centrifugo_settings
from realtime.centrifugo_config import InvalidConfig
from realtime.conf import Settings
from realtime.snapshot import ChannelOptions
from tests.project.test_readme import variables_of_settings

EXAMPLE = Path(__file__).with_name("centrifugo.json").read_text(encoding="utf-8")
SETTINGS = Settings()


def read(channel, **others):
    """Return what is read of a channel section, and of others."""
    return centrifugo_config.read(json.dumps({"channel": channel, **others}), settings=SETTINGS)


def read_namespace(**options):
    return read({"namespaces": [{"name": "chat", **options}]})


def options_of(reading, name="chat"):
    (found,) = [each.options for each in reading.namespaces if each.name == name]
    return ChannelOptions(**found)


# What is read -----------------------------------------------------------------------------------


def test_a_whole_configuration_is_read():
    reading = centrifugo_config.read(EXAMPLE, settings=SETTINGS)

    assert reading.problems == []
    assert len(reading.namespaces) == 13
    assert options_of(reading, "") == ChannelOptions(allow_subscribe_for_client=True)
    assert options_of(reading, "prices") == ChannelOptions(
        history_size=1,
        history_ttl=5400,
        force_recovery=True,
        force_recovery_mode="cache",
        auto_cache_recover=True,
        force_positioning=True,
        allow_subscribe_for_client=True,
    )
    assert options_of(reading, "scores").history_ttl == 600
    assert options_of(reading, "news").history_meta_ttl == 2160 * 3600
    assert options_of(reading, "wiki.pages").channel_regex == "^[a-zäöü-]+$"
    assert options_of(reading, "backend_only") == ChannelOptions()


def test_what_is_not_supported_is_named_with_its_path_and_namespace():
    reading = centrifugo_config.read(EXAMPLE, settings=SETTINGS)

    assert [told.partition(":")[0] for told in reading.unsupported] == [
        'channel.namespaces[2].allowed_delta_types (namespace "prices")',
        'channel.namespaces[2].delta_publish (namespace "prices")',
        'channel.namespaces[3].subscribe_proxy_enabled (namespace "orders")',
        "channel.proxy.subscribe",
    ]


@pytest.mark.parametrize("field", fields(ChannelOptions), ids=lambda field: field.name)
def test_every_option_of_channels_is_read(field):
    value, expected = {
        "history_ttl": ("5m", 300),
        "history_meta_ttl": ("5m", 300),
        "force_recovery_mode": ("cache", "cache"),
        "publication_data_format": ("json", "json"),
        "channel_regex": ("^x$", "^x$"),
        "history_size": (7, 7),
    }.get(field.name, (True, True))

    reading = read_namespace(**{field.name: value})

    assert reading.problems == reading.unsupported == []
    assert options_of(reading) == ChannelOptions(**{field.name: expected})


def test_null_is_as_good_as_nothing():
    reading = read({"namespaces": [{"name": "chat", "presence": None}], "without_namespace": None})

    assert reading.problems == reading.unsupported == []
    assert [each.name for each in reading.namespaces] == ["chat"]
    assert options_of(reading) == ChannelOptions()


# Global values ----------------------------------------------------------------------------------


def test_the_global_meta_ttl_goes_to_namespaces_without_one():
    reading = read(
        {
            "history_meta_ttl": "240h",
            "namespaces": [{"name": "chat"}, {"name": "news", "history_meta_ttl": "1h"}],
        }
    )

    assert options_of(reading, "chat").history_meta_ttl == 240 * 3600
    assert options_of(reading, "news").history_meta_ttl == 3600
    assert "REALTIME_HISTORY_META_TTL_SECONDS=864000" in reading.notes[0]


def test_the_global_meta_ttl_of_this_server_is_left_to_the_setting():
    reading = read({"history_meta_ttl": "720h", "namespaces": [{"name": "chat"}]})

    assert options_of(reading).history_meta_ttl == 0
    assert reading.notes == []


@pytest.mark.rule("option-format-default")
def test_the_global_data_format_goes_to_namespaces_without_one():
    reading = read(
        {
            "publication_data_format": "json_object",
            "without_namespace": {},
            "namespaces": [{"name": "chat"}, {"name": "news", "publication_data_format": "json"}],
        }
    )

    formats = {each.name: each.options["publication_data_format"] for each in reading.namespaces}
    assert formats == {"": "json_object", "chat": "json_object", "news": "json"}


# Unsupported ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"delta_publish": True}, "delta_publish"),
        ({"allow_tags_filter": True}, "allow_tags_filter"),
        ({"publish_proxy_enabled": True}, "publish_proxy_enabled"),
        ({"publish_proxy_name": "mine"}, "publish_proxy_name"),
        ({"subscription_type": "shared_poll"}, "subscription_type"),
        ({"map": {"mode": "ephemeral", "ordered": False}}, "map.mode"),
        ({"shared_poll": {"refresh_interval": "5s"}}, "shared_poll.refresh_interval"),
        ({"map_users_presence_channel_prefix": "users:"}, "map_users_presence_channel_prefix"),
        ({"publication_data_format": "binary"}, "publication_data_format"),
    ],
)
def test_options_that_are_not_supported_are_told(options, told):
    reading = read_namespace(**options)

    (sentence,) = reading.unsupported
    assert sentence.startswith(f'channel.namespaces[0].{told} (namespace "chat"): ')
    assert "not supported" in sentence or "is supported" in sentence
    assert reading.problems == []
    assert options_of(reading) == ChannelOptions()


@pytest.mark.parametrize(
    "options",
    [
        {"delta_publish": False},
        {"allowed_delta_types": []},
        {"allowed_delta_types": None},
        {"subscribe_proxy_enabled": False, "subscribe_proxy_name": "default"},
        {"sub_refresh_proxy_name": ""},
        {"subscription_type": "stream"},
        {
            "map": {},
            "shared_poll": {"mode": "", "refresh_interval": "0s", "publish_enabled": False},
        },
        {"map": {"remove_proxy_name": "default", "key_ttl": "0s", "stream_size": 0}},
        {"some_day": False},
    ],
)
def test_options_that_ask_for_nothing_are_not_told(options):
    reading = read_namespace(**options)

    assert reading.unsupported == reading.problems == []


def test_an_option_that_nobody_knows_is_told_with_its_neighbour():
    reading = read_namespace(presense=True)

    assert reading.unsupported == [
        'channel.namespaces[0].presense (namespace "chat"): no such option; is it presence?'
    ]


@pytest.mark.parametrize(
    "name", ["shared_position_sync", "subscribe_cel", "state_events", "cache_empty_proxy_name"]
)
def test_an_option_of_pro_is_called_that(name):
    reading = read_namespace(**{name: "x"})

    assert reading.unsupported == [
        f'channel.namespaces[0].{name} (namespace "chat"): an option of Centrifugo PRO, which is '
        "not supported"
    ]


def test_an_option_of_pro_for_all_channels_is_called_that():
    (told,) = read({"patterns": True}).unsupported

    assert told == "channel.patterns: an option of Centrifugo PRO, which is not supported"


@pytest.mark.parametrize(
    ("proxy", "closed"),
    [
        ("subscribe_proxy_enabled", {"allow_subscribe_for_client"}),
        ("subscribe_stream_proxy_enabled", {"allow_subscribe_for_client"}),
        ("publish_proxy_enabled", {"allow_publish_for_client", "allow_publish_for_subscriber"}),
    ],
)
def test_what_a_backend_decided_stays_closed_without_it(proxy, closed):
    allowed = {
        "allow_subscribe_for_client",
        "allow_publish_for_client",
        "allow_publish_for_subscriber",
    }

    reading = read_namespace(**{proxy: True}, **dict.fromkeys(allowed, True))

    assert {name for name in allowed if getattr(options_of(reading), name)} == allowed - closed
    assert all(name in reading.unsupported[0] for name in closed)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("private_prefix", ""),
        ("private_prefix", "@"),
        ("namespace_boundary", "/"),
        ("user_boundary", "!"),
        ("user_separator", ";"),
        ("user_separator", 5),
    ],
)
def test_other_rules_for_names_cannot_be_skipped(key, value):
    reading = read({key: value, "namespaces": []})

    (sentence,) = reading.problems
    assert sentence.startswith(f"channel.{key}: ")
    assert reading.unsupported == []


def test_global_options_that_differ_are_told():
    reading = read(
        {
            "max_length": 500,
            "publication_data_format": "binary",
            "proxy": {"publish": {"endpoint": "http://backend"}, "subscribe": {"timeout": "1s"}},
            "namespaecs": [{}],
        }
    )

    assert [told.partition(":")[0] for told in reading.unsupported] == [
        "channel.publication_data_format",
        "channel.max_length",
        "channel.proxy.publish",
        "channel.namespaecs",
    ]
    assert "REALTIME_CHANNEL_NAME_MAX_BYTES" in reading.unsupported[1]
    assert "is it namespaces?" in reading.unsupported[3]


def test_the_longest_name_may_be_the_one_of_the_setting():
    text = json.dumps({"channel": {"max_length": 500}})

    reading = centrifugo_config.read(text, settings=Settings(channel_name_max_bytes=500))

    assert reading.unsupported == []


# Problems ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"presence": "true"},
            'presence (namespace "chat"): true or false is expected, not "true"',
        ),
        ({"presence": 1}, 'presence (namespace "chat"): true or false is expected, not 1'),
        ({"history_size": "10"}, 'history_size (namespace "chat"): a whole number is expected'),
        ({"history_size": True}, 'history_size (namespace "chat"): a whole number is expected'),
        ({"history_size": 1.5}, 'history_size (namespace "chat"): a whole number is expected'),
        ({"history_ttl": "5"}, 'history_ttl (namespace "chat"): not a duration'),
        ({"history_ttl": "1500ms"}, 'history_ttl (namespace "chat"): 1500ms is not a whole'),
        ({"history_ttl": 300}, 'history_ttl (namespace "chat"): 300 nanoseconds'),
        ({"history_meta_ttl": "-1s"}, 'history_meta_ttl (namespace "chat"): -1s is below zero'),
        ({"channel_regex": 5}, 'channel_regex (namespace "chat"): a text is expected, not 5'),
        (
            {"force_recovery_mode": "map"},
            'force_recovery_mode (namespace "chat"): stream or cache is expected',
        ),
        (
            {"publication_data_format": "xml"},
            'publication_data_format (namespace "chat"): json or json_object is expected',
        ),
    ],
)
def test_wrong_values_are_told_with_their_path(options, told):
    reading = read_namespace(**options)

    (sentence,) = reading.problems
    assert sentence.startswith(f"channel.namespaces[0].{told}")


@pytest.mark.parametrize(
    ("channel", "told"),
    [
        ({"namespaces": {}}, "channel.namespaces: a list is expected, not {}"),
        ({"namespaces": "chat news"}, "channel.namespaces: a list is expected"),
        ({"namespaces": ["chat"]}, 'channel.namespaces[0]: an object is expected, not "chat"'),
        ({"namespaces": [None]}, "channel.namespaces[0]: an object is expected, not null"),
        ({"namespaces": [{}]}, "channel.namespaces[0].name: "),
        ({"namespaces": [{"name": ""}]}, "channel.namespaces[0].name: "),
        ({"namespaces": [{"name": 5}]}, "channel.namespaces[0].name: "),
        (
            {"namespaces": [{"name": "chat"}, {"name": "news"}, {"name": "chat"}]},
            'channel.namespaces[2].name: "chat" stands here a second time',
        ),
        ({"without_namespace": []}, "channel.without_namespace: an object is expected, not []"),
        ({"history_meta_ttl": "1ms"}, "channel.history_meta_ttl: 1ms is not a whole"),
        ({"publication_data_format": "xml"}, "channel.publication_data_format: json or"),
        ({"proxy": 5}, "channel.proxy: an object is expected, not 5"),
    ],
)
def test_a_section_of_another_shape_is_told_with_its_path(channel, told):
    reading = read(channel)

    (sentence,) = reading.problems
    assert sentence.startswith(told)


def test_everything_that_is_wrong_is_told_at_once():
    reading = read(
        {"namespaces": [{"name": "chat", "presence": 1, "join_leave": 1, "delta_publish": True}, 5]}
    )

    assert len(reading.problems) == 3
    assert len(reading.unsupported) == 1


def test_names_of_the_file_cannot_move_the_cursor_of_a_terminal():
    reading = read({"namespaces": [{"name": "a\x1b[2J", "b\x1b": True, "presence": "\x1b"}]})

    assert "\x1b" not in "".join([*reading.unsupported, *reading.problems])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ('{"channel": {"history_meta_ttl": NaN}}', "NaN"),
        ('{"channel": {}, "channel": {}}', '"channel" stands twice'),
        ('{"channel": {"namespaces": [{"name": "ab", "name": "cd"}]}}', '"name" stands twice'),
        ("[" * 100_000, "not JSON"),
        ('{"channel": ' + "9" * 5000 + "}", "not JSON"),
        ("[]", "object is expected"),
        ("{}", "no section channel"),
        ('{"channel": []}', "no section channel"),
        ('{"namespaces": [], "history_size": 10}', "before v6"),
    ],
)
def test_what_is_no_configuration_is_refused(text, told):
    with pytest.raises(InvalidConfig, match=told):
        centrifugo_config.read(text, settings=SETTINGS)


# Other sections ---------------------------------------------------------------------------------


def test_sections_that_are_not_read_are_named_with_what_stands_for_them():
    reading = centrifugo_config.read(EXAMPLE, settings=SETTINGS)

    assert reading.notes == [
        "client is not imported: token.hmac_secret_key is REALTIME_TOKEN_HMAC_SECRET, "
        "token.audience is REALTIME_TOKEN_AUDIENCE, allowed_origins is REALTIME_ALLOWED_ORIGINS, "
        "ping_interval is REALTIME_PING_INTERVAL_SECONDS",
        "http_api is not imported: key is manage.py apikey create, or REALTIME_API_KEY",
        "engine is not imported: redis.address is REDIS_URL",
        "prometheus is not imported: nothing stands for enabled",
    ]


def notes_of(**sections):
    return read({"namespaces": []}, **sections).notes


@pytest.mark.parametrize(
    ("sections", "note"),
    [
        (
            {
                "engine": {
                    "redis": {"address": "kept", "prefix": "kept", "sentinel_address": "kept"}
                }
            },
            "engine is not imported: redis.address is REDIS_URL; nothing stands for redis.prefix, "
            "redis.sentinel_address",
        ),
        ({"broker": {"type": "kept"}}, "broker is not imported: nothing stands for type"),
        (
            {"websocket": {"compression": True}},
            "websocket is not imported: nothing stands for compression",
        ),
        (
            {"consumers": [{"name": "kept"}]},
            "consumers is not imported: nothing stands for consumers",
        ),
        ({"pid_file": "kept"}, "pid_file is not imported: nothing stands for pid_file"),
        (
            {"client": {"proxy": {"refresh": {"enabled": True, "endpoint": "kept"}}}},
            "client is not imported: nothing stands for proxy.refresh.enabled, "
            "proxy.refresh.endpoint",
        ),
        ({"o\x1b": {"k\x1b": "kept"}}, '"o\\u001b" is not imported: nothing stands for "k\\u001b"'),
    ],
)
def test_what_nothing_stands_for_is_named_and_never_its_value(sections, note):
    assert notes_of(**sections) == [note]


@pytest.mark.parametrize(
    "section",
    [
        {"prometheus": {"enabled": False, "handler_prefix": ""}},
        {"engine": {"type": "redis"}},
        {"engine": {"type": "memory"}},
        {"broker": {"enabled": True, "type": "redis"}},
        {"admin": {"enabled": True}},
        {"websocket": {"handler_prefix": "/connection/websocket"}},
    ],
)
def test_what_is_so_anyway_and_what_is_off_is_not_told(section):
    (name,) = section

    assert notes_of(**section) == [f"{name} is not imported"]


@pytest.mark.parametrize(
    ("section", "path", "ours"),
    [
        ("http_api", "error_mode", "REALTIME_API_ERRORS_AS_STATUSES"),
        ("http_api", "insecure", "manage.py apikey create, because every caller needs a key"),
        *(
            ("client", f"subscription_token.{name}", f"REALTIME_SUBSCRIPTION_TOKEN_{name.upper()}")
            for name in ("audience_regex", "issuer_regex", "user_id_claim")
        ),
    ],
)
def test_what_stands_for_an_option_is_told(section, path, ours):
    *above, last = path.split(".")
    given = {last: "kept"}
    for key in reversed(above):
        given = {key: given}

    assert notes_of(**{section: given}) == [f"{section} is not imported: {path} is {ours}"]


def test_a_backend_that_lets_clients_in_is_told_by_itself():
    connect = {"enabled": True, "endpoint": "http://kept", "http_headers": ["Cookie"]}

    assert notes_of(client={"proxy": {"connect": connect}}) == [
        "client is not imported",
        "client.proxy.connect is not supported: no backend is asked who connects. Give each client "
        "a connection token, or it is refused",
    ]


@pytest.mark.parametrize("client", [{}, {"proxy": {"connect": {"endpoint": "x"}}}, None, [], "x"])
def test_no_backend_that_lets_clients_in_is_told_where_there_is_none(client):
    assert "proxy" not in "".join(notes_of(client=client))


def test_secrets_of_the_file_are_never_told():
    reading = centrifugo_config.read(EXAMPLE, settings=SETTINGS)

    assert "kept-to-itself" not in repr(reading)


def test_what_stands_for_something_exists():
    known = variables_of_settings() | engine.variables()

    for section in centrifugo_settings.STANDS_FOR.values():
        for ours in section.values():
            if not ours.startswith("manage.py"):
                assert ours in known, ours


# What is written --------------------------------------------------------------------------------


def test_namespaces_are_written_sorted_without_defaults_and_with_durations():
    text = centrifugo_config.write(
        {
            "news": ChannelOptions(history_size=5, history_ttl=300, history_meta_ttl=7200),
            "": ChannelOptions(presence=True),
            "chat": ChannelOptions(),
        }
    )

    assert json.loads(text) == {
        "channel": {
            "without_namespace": {"presence": True},
            "namespaces": [
                {"name": "chat"},
                {
                    "name": "news",
                    "history_size": 5,
                    "history_ttl": "5m",
                    "history_meta_ttl": "2h",
                },
            ],
        }
    }
    assert text.endswith("}\n")


def test_what_was_never_configured_is_not_written():
    assert json.loads(centrifugo_config.write({})) == {"channel": {"namespaces": []}}


def test_what_is_written_reads_the_same():
    first = centrifugo_config.read(EXAMPLE, settings=SETTINGS)
    namespaces = {each.name: ChannelOptions(**each.options) for each in first.namespaces}

    text = centrifugo_config.write(namespaces)
    second = centrifugo_config.read(text, settings=SETTINGS)

    assert second.problems == second.unsupported == second.notes == []
    assert {each.name: ChannelOptions(**each.options) for each in second.namespaces} == namespaces
