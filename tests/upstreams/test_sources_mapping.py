"""JSON pointers, by the examples of RFC 6901 and by what answers may hold."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from upstreams.sources.mapping import (
    NoValue,
    UnusablePointer,
    checked,
    is_same,
    resolve,
    tokens,
)

# RFC 6901, section 5.
DOCUMENT = rb"""{
  "foo": ["bar", "baz"],
  "": 0,
  "a/b": 1,
  "c%d": 2,
  "e^f": 3,
  "g|h": 4,
  "i\\j": 5,
  "k\"l": 6,
  " ": 7,
  "m~n": 8
}"""


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/foo", '["bar", "baz"]'),
        ("/foo/0", '"bar"'),
        ("/", "0"),
        ("/a~1b", "1"),
        ("/c%d", "2"),
        ("/e^f", "3"),
        ("/g|h", "4"),
        ("/i\\j", "5"),
        ('/k"l', "6"),
        ("/ ", "7"),
        ("/m~0n", "8"),
    ],
)
def test_the_examples_of_the_rfc(pointer, value):
    assert bytes(resolve(checked(DOCUMENT), pointer)).decode() == value


def test_the_empty_pointer_is_the_whole_answer():
    assert bytes(resolve(checked(b' {"a": [1]}\n'), "")) == b'{"a": [1]}'


def test_a_tilde_is_unescaped_once():
    assert tokens("/~01") == ("~1",)
    assert tokens("/a/~1~0/") == ("a", "/~", "")


@pytest.mark.parametrize("pointer", ["rates", "#/rates", "/a~", "/~2", "/a~/b"])
def test_what_is_no_pointer_is_refused(pointer):
    with pytest.raises(UnusablePointer):
        tokens(pointer)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"a": 1}', "/b"),
        (b'{"a": 1}', "/a/b"),
        (b'{"a": "text"}', "/a/0"),
        (b'{"a": null}', "/a/b"),
        (b"[1, 2]", "/2"),
        (b"[1, 2]", "/-"),
        (b"[1, 2]", "/01"),
        (b"[1, 2]", "/-1"),
        (b"[1, 2]", "/+1"),
        (b"[1, 2]", "/\u0661".encode().decode("latin-1")),
        (b"[1, 2]", "/" + "9" * 5000),
    ],
)
def test_what_a_pointer_does_not_find_is_told_with_the_pointer(body, pointer):
    with pytest.raises(NoValue, match="in the answer"):
        resolve(checked(body), pointer)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"\xff", b'{"a": \xff}', b"NaN", b"{} {}", b"[" * 100_000, b'{"a": 1'],
)
def test_what_is_not_json_is_refused(body):
    with pytest.raises(NoValue, match="not JSON"):
        checked(body)


def test_a_number_keeps_its_digits():
    answer = checked(b'{"price": 12345678901234567890.1230, "big": 1e2}')

    assert bytes(resolve(answer, "/price")) == b"12345678901234567890.1230"
    assert bytes(resolve(answer, "/big")) == b"1e2"


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values, min_size=1, max_size=4))
def test_every_member_is_found_under_its_escaped_name(document):
    answer = checked(msgspec.json.encode(document))

    for key, value in document.items():
        pointer = "/" + key.replace("~", "~0").replace("/", "~1")
        assert msgspec.json.decode(resolve(answer, pointer)) == value


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a":1,"b":[2]}', '{ "b": [2], "a": 1 }', True),
        ("[1,2]", "[2,1]", False),
        ("1", "true", False),
        ("[0]", "[false]", False),
        ('"a"', r'"\u0061"', True),
        ("null", "0", False),
    ],
)
def test_values_are_compared_as_json(one, other, same):
    assert is_same(Raw(one.encode()), Raw(other.encode())) is same
