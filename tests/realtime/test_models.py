import pytest
from django.core.exceptions import ValidationError

from realtime.models import (
    CHANNEL_METHODS,
    SERVER_METHODS,
    ApiKey,
    Namespace,
    hash_of_key,
    make_key,
    validate_scope,
    validate_scopes,
)

KEY = "a key for the tests".replace(" ", "-")


def problems(namespace):
    with pytest.raises(ValidationError) as caught:
        namespace.full_clean(validate_unique=False, validate_constraints=False)
    return caught.value.message_dict


@pytest.mark.rule("name-of-namespace")
@pytest.mark.parametrize("name", ["", "demo", "a-b_c.9", "ab"])
def test_a_namespace_name_is_empty_or_two_plain_characters_or_more(name):
    Namespace(name=name).full_clean(validate_unique=False, validate_constraints=False)


@pytest.mark.rule("name-of-namespace")
@pytest.mark.parametrize("name", ["a", "a:b", "demo\n", "demo ", "dé", "$demo", "a\0b", "n" * 101])
def test_other_names_are_refused_beside_the_field(name):
    assert list(problems(Namespace(name=name))) == ["name"]


@pytest.mark.rule("option-history-both")
@pytest.mark.parametrize(
    ("given", "missing"),
    [({"history_size": 10}, "history_ttl"), ({"history_ttl": 10}, "history_size")],
)
def test_history_needs_a_size_and_a_ttl(given, missing):
    assert list(problems(Namespace(name="demo", **given))) == [missing]


@pytest.mark.rule("option-force-recovery")
@pytest.mark.parametrize("option", ["force_recovery", "allow_recovery"])
def test_recovery_needs_history(option):
    assert list(problems(Namespace(name="demo", **{option: True}))) == [option]
    Namespace(name="demo", history_size=1, history_ttl=1, **{option: True}).full_clean(
        validate_unique=False, validate_constraints=False
    )


HISTORY = {"history_size": 1, "history_ttl": 60}


def test_the_cache_is_history():
    assert list(problems(Namespace(name="demo", force_recovery_mode="cache"))) == [
        "force_recovery_mode"
    ]
    Namespace(name="demo", force_recovery_mode="cache", **HISTORY).full_clean(
        validate_unique=False, validate_constraints=False
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"force_recovery": True},
        {"force_recovery": True, "force_recovery_mode": "stream"},
        {"force_recovery_mode": "cache"},
        {"allow_recovery": True, "force_recovery_mode": "cache"},
    ],
)
def test_recovering_without_being_asked_needs_forced_recovery_from_the_cache(given):
    namespace = Namespace(name="demo", auto_cache_recover=True, **HISTORY, **given)

    assert list(problems(namespace)) == ["auto_cache_recover"]


def test_recovering_without_being_asked_goes_with_forced_recovery_from_the_cache():
    Namespace(
        name="demo",
        force_recovery=True,
        force_recovery_mode="cache",
        auto_cache_recover=True,
        **HISTORY,
    ).full_clean(validate_unique=False, validate_constraints=False)


def test_an_unknown_recovery_mode_is_refused():
    assert list(problems(Namespace(name="demo", force_recovery_mode="map", **HISTORY))) == [
        "force_recovery_mode"
    ]


@pytest.mark.parametrize("meta_ttl", [1, 59])
def test_offsets_are_not_forgotten_before_history(meta_ttl):
    assert list(problems(Namespace(name="demo", history_meta_ttl=meta_ttl, **HISTORY))) == [
        "history_meta_ttl"
    ]


@pytest.mark.parametrize("meta_ttl", [0, 60, 61])
def test_offsets_may_be_kept_as_long_as_history_or_longer(meta_ttl):
    Namespace(name="demo", history_meta_ttl=meta_ttl, **HISTORY).full_clean(
        validate_unique=False, validate_constraints=False
    )


def test_the_setting_counts_where_a_namespace_has_no_meta_ttl(settings):
    settings.REALTIME = {**settings.REALTIME, "HISTORY_META_TTL_SECONDS": 59}

    found = problems(Namespace(name="demo", **HISTORY))

    assert "REALTIME_HISTORY_META_TTL_SECONDS" in found["history_meta_ttl"][0]


@pytest.mark.parametrize("option", ["history_size", "history_ttl", "history_meta_ttl"])
def test_numbers_are_no_larger_than_every_store_can_hold(option):
    values = {"history_size": 1, "history_ttl": 1, "history_meta_ttl": 2**31 - 1, option: 2**31}

    assert option in problems(Namespace(name="demo", **values))


@pytest.mark.parametrize("option", ["history_size", "history_ttl", "history_meta_ttl"])
def test_a_number_that_is_missing_is_told_beside_the_field(option):
    assert list(problems(Namespace(name="demo", **{**HISTORY, option: None}))) == [option]


@pytest.mark.parametrize(
    "pattern",
    ["^[[:alpha:]]+$", r"^\p{Greek}+$", r"\Qa.b\E", "(?<name>a)", "a(?i)b", r"^[\pL\pN_-]{1,64}$"],
)
def test_a_regex_of_re2_is_taken(pattern):
    Namespace(name="demo", channel_regex=pattern).full_clean(
        validate_unique=False, validate_constraints=False
    )


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        (r"(a)\1", r"invalid escape sequence: \1"),
        ("(?=a)", "no look-around"),
        ("(?>a)", "invalid perl operator"),
        (r"^a\Z", r"the end of a text is $ or \z"),
        ("a{1001}", "invalid repetition size"),
        (r"\pL{1,255}", "pattern too large"),
        ("é(", "missing )"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_a_regex_of_another_language_is_refused(capfd, pattern, told):
    found = problems(Namespace(name="demo", channel_regex=pattern))

    [message] = found.pop("channel_regex")
    assert told in message
    assert found == {}
    assert capfd.readouterr() == ("", "")


@pytest.mark.rule("option-channel-regex")
@pytest.mark.parametrize("pattern", ["(", "[a", "*", "a{2,1}", "x\0y"])
def test_a_regex_that_does_not_compile_is_refused(pattern):
    assert list(problems(Namespace(name="demo", channel_regex=pattern))) == ["channel_regex"]


def test_a_negative_history_is_refused():
    found = problems(Namespace(name="demo", history_size=-1, history_ttl=-1))

    assert {"history_size", "history_ttl"} <= set(found)


def test_an_unknown_data_format_is_refused():
    assert "publication_data_format" in problems(
        Namespace(name="demo", publication_data_format="xml")
    )


@pytest.mark.parametrize(
    "scope",
    ["*", *CHANNEL_METHODS, *SERVER_METHODS, "publish:chat:*", "history:*", "presence:a:b:c"],
)
def test_a_scope_is_a_star_a_method_or_a_method_with_a_pattern(scope):
    validate_scope(scope)


@pytest.mark.parametrize(
    ("scope", "word"),
    [
        ("publish:", "alone"),
        ("info:demo:*", "alone"),
        ("batch", "methods are"),
        ("publsh:chat", "methods are"),
        ("*:chat", "methods are"),
        ("", "methods are"),
        ("publish:a\0b", "printable"),
        ("publish:\ud800", "printable"),
        (5, "not a text"),
        (None, "not a text"),
    ],
)
def test_a_wrong_scope_is_told_why(scope, word):
    with pytest.raises(ValidationError, match=word):
        validate_scope(scope)


@pytest.mark.parametrize("scopes", [[], None, "publish", {}, [["publish"]]])
def test_scopes_are_a_list_with_something_in_it(scopes):
    with pytest.raises(ValidationError):
        validate_scopes(scopes)


def test_random_keys_are_long_and_differ():
    assert len(make_key()) == 64
    assert make_key() != make_key()


@pytest.mark.django_db
def test_only_the_hash_and_the_beginning_of_a_key_are_stored():
    row, key = ApiKey.create("reports")

    stored = ApiKey.objects.values().get(pk=row.pk)

    assert stored["key_hash"] == hash_of_key(key)
    assert stored["scopes"] == ["*"]
    assert stored["prefix"] == key[:6]
    assert key not in repr(stored)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "given",
    [
        {"key": "short"},
        {"key": "with a space in it"},
        {"key": "schlüssel-schlüssel"},
        {"key": ""},
        {"scopes": []},
        {"scopes": ["nothing"]},
        {"name": "a\nb"},
        {"name": "\ud800"},
        {"name": "n" * 101},
        {"name": ""},
    ],
)
def test_a_key_that_could_not_work_is_not_stored(given):
    with pytest.raises(ValidationError):
        ApiKey.create(given.pop("name", "reports"), **given)

    assert not ApiKey.objects.exists()


@pytest.mark.django_db
def test_names_and_keys_are_unique():
    ApiKey.create("reports", key=KEY)

    with pytest.raises(ValidationError, match="Name"):
        ApiKey.create("reports")
    with pytest.raises(ValidationError, match="hash"):
        ApiKey.create("others", key=KEY)
