import io
import json
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError

from realtime import snapshot
from realtime.models import Namespace, SnapshotVersion
from realtime.snapshot import ChannelOptions
from tests.docs.documents import document

pytestmark = pytest.mark.django_db

EXAMPLE = Path(__file__).with_name("centrifugo.json")
# What stands in the example, and is not supported.
LEFT_OUT = {"allowed_delta_types", "delta_publish", "subscribe_proxy_enabled"}


def run(*arguments):
    """Return what ``namespaces`` wrote on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    call_command("namespaces", *map(str, arguments), stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def refusal(*arguments):
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    return str(caught.value), caught.value.returncode


@pytest.fixture
def file(tmp_path):
    """Return a writer of configurations with these namespaces."""

    def file(*namespaces, **channel):
        path = tmp_path / "config.json"
        config = {"channel": {"namespaces": list(namespaces), **channel}}
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    return file


# Import -----------------------------------------------------------------------------------------


def test_import_is_refused_where_something_is_not_supported(file):
    told, code = refusal("import", EXAMPLE)

    for option in LEFT_OUT:
        assert f".{option} (namespace " in told
    assert "nothing was changed" in told
    assert "--skip-unsupported" in told
    assert code == 1
    assert not Namespace.objects.exists()


def test_the_refusal_reads_as_in_the_how_to(file, monkeypatch):
    path = file(
        {"name": "chat"},
        {"name": "news"},
        {"name": "prices", "delta_publish": True, "history_ttl": "1500ms", "history_size": 1},
        {"name": "orders", "presense": True, "force_recovery": True},
    )
    monkeypatch.chdir(path.parent)

    told, _ = refusal("import", "config.json")

    shown = document("docs/how-to/move-from-centrifugo.md").block("text", "CommandError").text
    assert shown == f"CommandError: {told}\n"


def test_import_leaves_out_what_is_not_supported_on_request():
    out, err = run("import", EXAMPLE, "--skip-unsupported")

    assert out.splitlines()[:3] == [
        "created (without a namespace)",
        "created chat",
        "created news",
    ]
    assert Namespace.objects.count() == 13
    for option in LEFT_OUT:
        assert f".{option} (namespace " in err
    assert "client is not imported: token.hmac_secret_key is REALTIME_TOKEN_HMAC_SECRET" in err
    assert "kept-to-itself" not in out + err


def test_what_a_backend_decided_is_not_opened_by_leaving_it_out():
    run("import", EXAMPLE, "--skip-unsupported")

    assert not Namespace.objects.get(name="orders").allow_subscribe_for_client


def test_a_configuration_survives_the_way_through_the_database(tmp_path):
    run("import", EXAMPLE, "--skip-unsupported")
    first, _ = run("export")
    exported = tmp_path / "exported.json"
    exported.write_text(first, encoding="utf-8")
    Namespace.objects.all().delete()

    run("import", exported)
    second, _ = run("export")

    assert second == first
    given = json.loads(EXAMPLE.read_text(encoding="utf-8"))["channel"]
    supported = {each["name"]: each for each in given["namespaces"]}
    supported["scores"]["history_ttl"] = "10m"  # given in nanoseconds
    supported["orders"]["allow_subscribe_for_client"] = False  # left to a backend
    written = {each["name"]: each for each in json.loads(second)["channel"]["namespaces"]}
    assert len(written) == len(supported) == 12
    for name, options in supported.items():
        assert written[name] == {
            key: {"300s": "5m", "1h30m": "90m"}.get(value, value)
            for key, value in options.items()
            if value is not False and key not in LEFT_OUT
        }


def test_namespaces_are_updated_and_others_left_alone(file):
    Namespace.objects.create(name="chat", presence=True, history_size=5, history_ttl=60)
    Namespace.objects.create(name="other", presence=True)
    path = file({"name": "chat", "history_size": 5, "history_ttl": "2m"}, {"name": "news"})

    out, _ = run("import", path)

    assert out.splitlines() == [
        "changed chat: history_ttl 60 -> 120, presence true -> false",
        "created news",
    ]
    namespaces = snapshot.load().namespaces
    assert namespaces["chat"] == ChannelOptions(history_size=5, history_ttl=120)
    assert namespaces["other"].presence


def test_a_second_import_changes_nothing_and_wakes_nobody(file):
    path = file({"name": "chat", "presence": True}, without_namespace={"join_leave": True})
    run("import", path)
    version = SnapshotVersion.objects.get().number

    out, _ = run("import", path)

    assert out.splitlines() == ["unchanged (without a namespace)", "unchanged chat"]
    assert SnapshotVersion.objects.get().number == version


def test_an_import_is_a_new_version_for_every_instance(file):
    version = SnapshotVersion.objects.get().number

    run("import", file({"name": "chat"}))

    assert SnapshotVersion.objects.get().number > version


def test_a_dry_run_tells_and_changes_nothing(file):
    Namespace.objects.create(name="chat")
    Namespace.objects.create(name="other")
    path = file({"name": "chat", "presence": True}, {"name": "news"})

    out, err = run("import", path, "--dry-run", "--prune")

    assert out.splitlines() == [
        "changed chat: presence false -> true",
        "created news",
        "deleted other",
    ]
    assert "nothing was changed" in err
    assert {row.name: row.presence for row in Namespace.objects.all()} == {
        "chat": False,
        "other": False,
    }


def test_prune_deletes_what_the_file_does_not_have(file):
    for name in ("", "chat", "other"):
        Namespace.objects.create(name=name)

    out, _ = run("import", file({"name": "chat"}), "--prune")

    assert out.splitlines() == ["unchanged chat", "deleted (without a namespace)", "deleted other"]
    assert [row.name for row in Namespace.objects.all()] == ["chat"]


def test_standard_input_can_be_the_file(monkeypatch):
    text = b'\xef\xbb\xbf{"channel": {"namespaces": [{"name": "chat"}]}}'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))

    out, _ = run("import", "-")

    assert out == "created chat\n"


@pytest.mark.parametrize(
    ("namespace", "told"),
    [
        ({"name": "a"}, 'channel.namespaces[1].name (namespace "a"): Use two or more'),
        ({"name": "a:b"}, "channel.namespaces[1].name"),
        ({"name": "n" * 101}, "channel.namespaces[1].name"),
        ({"name": "\ud800\ud800"}, "channel.namespaces[1].name"),
        (
            {"name": "news", "history_size": 10},
            'channel.namespaces[1].history_ttl (namespace "news"): History needs both',
        ),
        ({"name": "news", "force_recovery": True}, "channel.namespaces[1].force_recovery "),
        (
            {"name": "news", "auto_cache_recover": True},
            "channel.namespaces[1].auto_cache_recover ",
        ),
        (
            {"name": "news", "force_recovery_mode": "cache"},
            "channel.namespaces[1].force_recovery_mode ",
        ),
        (
            {"name": "news", "history_size": 1, "history_ttl": "2h", "history_meta_ttl": "1h"},
            "channel.namespaces[1].history_meta_ttl ",
        ),
        (
            {"name": "news", "history_size": 1, "history_ttl": "721h"},
            "channel.namespaces[1].history_meta_ttl ",
        ),
        ({"name": "news", "history_size": -1, "history_ttl": "1s"}, "[1].history_size "),
        ({"name": "news", "history_size": 2**31, "history_ttl": "1s"}, "[1].history_size "),
        ({"name": "news", "history_size": 1, "history_ttl": "1000000h"}, "[1].history_ttl "),
        ({"name": "news", "channel_regex": "^(?!x)"}, "[1].channel_regex "),
        ({"name": "news", "channel_regex": r"^(.)\1$"}, "[1].channel_regex "),
        ({"name": "news", "channel_regex": "\ud800"}, "[1].channel_regex "),
        ({"name": "news", "channel_regex": "x" * 501}, "[1].channel_regex "),
        ({"name": "news", "presence": "yes"}, "[1].presence "),
    ],
)
def test_one_bad_namespace_keeps_all_out(file, namespace, told):
    Namespace.objects.create(name="chat")
    path = file({"name": "chat", "presence": True}, namespace)

    sentence, code = refusal("import", path, "--skip-unsupported")

    assert told in sentence
    assert "nothing was changed" in sentence
    assert code == 1
    assert [(row.name, row.presence) for row in Namespace.objects.all()] == [("chat", False)]


def test_a_database_that_fails_on_the_way_has_nothing_changed(file, monkeypatch):
    Namespace.objects.create(name="chat")
    save = Namespace.save

    def save_unless_news(self):
        if self.name == "news":
            raise DatabaseError("disk full")
        save(self)

    monkeypatch.setattr(Namespace, "save", save_unless_news)

    told, code = refusal("import", file({"name": "chat", "presence": True}, {"name": "news"}))

    assert "disk full" in told
    assert code == 3
    assert [(row.name, row.presence) for row in Namespace.objects.all()] == [("chat", False)]


def test_all_that_is_wrong_is_told_at_once_and_what_can_be_left_out_apart(file):
    path = file(
        {"name": "rx", "channel_regex": r"^(.)\1$", "history_ttl": "1500ms", "history_size": 5},
        {"name": "rz", "force_recovery": True, "presence": "yes"},
        {"name": "d", "delta_publish": True},
        {"name": "rx", "history_size": -1, "history_ttl": "1s"},
        {"presense": True, "auto_cache_recover": True},
    )

    told, _ = refusal("import", path)

    first, *lines = told.splitlines()
    assert first == f"{path}: nothing was changed."
    middle = lines.index("This is left out with --skip-unsupported:")
    assert lines[0] == "This has to change in the file:"
    assert sorted(line.partition(": ")[0].strip() for line in lines[1:middle]) == [
        'channel.namespaces[0].channel_regex (namespace "rx")',
        'channel.namespaces[0].history_ttl (namespace "rx")',
        'channel.namespaces[1].force_recovery (namespace "rz")',
        'channel.namespaces[1].presence (namespace "rz")',
        'channel.namespaces[2].name (namespace "d")',
        'channel.namespaces[3].history_size (namespace "rx")',
        "channel.namespaces[3].name",
        "channel.namespaces[4].auto_cache_recover",
        "channel.namespaces[4].name",
    ]
    assert [line.partition(": ")[0].strip() for line in lines[middle + 1 :]] == [
        'channel.namespaces[2].delta_publish (namespace "d")',
        "channel.namespaces[4].presense",
    ]


@pytest.mark.parametrize(
    "namespace",
    [
        {"history_size": "10", "history_ttl": "1h", "force_recovery": True},
        {"history_size": 10, "history_ttl": "0.5s", "allow_recovery": True},
        {"history_size": 10, "history_ttl": "721h", "history_meta_ttl": "800.5h1ms"},
        {"history_size": 1, "history_ttl": "1h", "history_meta_ttl": 3600},
        {"force_recovery": "true"},
        {
            "history_size": 1,
            "history_ttl": "1h",
            "force_recovery": "true",
            "force_recovery_mode": "cache",
            "auto_cache_recover": True,
        },
        {
            "history_size": 1,
            "history_ttl": "1h",
            "force_recovery": True,
            "force_recovery_mode": "newest",
            "auto_cache_recover": True,
        },
    ],
)
def test_a_value_that_cannot_be_read_casts_no_doubt_on_others(file, namespace):
    told, _ = refusal("import", file({"name": "news", **namespace}))

    assert len(told.splitlines()) == 3


def test_what_other_sections_say_is_told_with_a_refusal_too(tmp_path):
    path = tmp_path / "config.json"
    config = {"channel": {"max_length": 9}, "client": {"user_id_http_header": "X-User"}}
    path.write_text(json.dumps(config), encoding="utf-8")
    err = io.StringIO()

    with pytest.raises(CommandError):
        call_command("namespaces", "import", path, stderr=err, no_color=True)

    assert err.getvalue() == "client is not imported: nothing stands for user_id_http_header\n"


def test_other_rules_for_names_are_refused_even_so(file):
    told, _ = refusal("import", file(private_prefix="", max_length=9), "--skip-unsupported")

    assert "channel.private_prefix" in told
    assert "max_length" not in told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"{}", "no section channel"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, told):
    path = tmp_path / "config.json"
    path.write_bytes(content)

    sentence, code = refusal("import", path)

    assert told in sentence
    assert str(path) in sentence
    assert code == 1


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    assert refusal("import", tmp_path / "missing.json") == (
        f"cannot read {tmp_path / 'missing.json'}: No such file or directory",
        1,
    )
    assert "Is a directory" in refusal("import", tmp_path)[0]


def test_a_file_without_namespaces_is_told(file):
    assert run("import", file()) == ("", "the file has no namespaces\n")


# Export and list --------------------------------------------------------------------------------


def test_export_writes_a_file(tmp_path):
    Namespace.objects.create(name="chat", presence=True)
    path = tmp_path / "exported.json"

    assert run("export", path) == ("", "")
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "channel": {"namespaces": [{"name": "chat", "presence": True}]}
    }


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    told, code = refusal("export", tmp_path / "missing" / "exported.json")

    assert told.endswith("No such file or directory")
    assert code == 1


def test_list_is_a_table_in_the_order_of_names():
    Namespace.objects.create(name="news", history_size=5, history_ttl=90, presence=True)
    Namespace.objects.create(name="Chat", channel_regex="^x$")
    Namespace.objects.create(name="odd", channel_regex="\x1b[2J")
    Namespace.objects.create(name="")

    out, _ = run("list")

    assert out.splitlines() == [
        "NAMESPACE              HISTORY    OPTIONS",
        "(without a namespace)  none       everything is off",
        "Chat                   none       channel_regex=^x$",
        "news                   5 for 90s  presence",
        'odd                    none       channel_regex="\\u001b[2J"',
    ]


def test_list_gives_one_json_object_a_line():
    Namespace.objects.create(name="chat", history_size=5, history_ttl=90)
    Namespace.objects.create(name="news")

    lines = [json.loads(line) for line in run("list", "--json")[0].splitlines()]

    assert [line["name"] for line in lines] == ["chat", "news"]
    assert (lines[0]["history_ttl"], lines[0]["presence"]) == (90, False)


def test_list_tells_how_to_make_the_first_one():
    assert run("list") == ("", "no namespaces: make one in the admin, or import a file\n")


@pytest.mark.parametrize("arguments", [["list"], ["export"]])
def test_a_database_that_does_not_answer_is_told(monkeypatch, arguments):
    def load():
        raise DatabaseError("gone\naway")

    monkeypatch.setattr(snapshot, "load", load)

    told, code = refusal(*arguments)

    assert told == ("the database failed: gone away; see that it is there, or correct DATABASE_URL")
    assert code == 3
