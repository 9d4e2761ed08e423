import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime import durations


@given(st.integers(min_value=0, max_value=2**63))
def test_what_is_written_reads_the_same(seconds):
    assert durations.parse(durations.write(seconds)) == seconds


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from("hms")), min_size=1, max_size=4))
def test_parts_add_up(parts):
    text = "".join(f"{number}{unit}" for number, unit in parts)

    expected = sum(number * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)
    assert durations.parse(text) == expected


@given(st.integers(0, 10**6), st.integers(0, 999))
def test_milliseconds_are_taken_where_they_make_whole_seconds_and_refused_elsewhere(
    seconds, milliseconds
):
    text = f"{seconds * 1000 + milliseconds}ms"

    if milliseconds:
        with pytest.raises(ValueError, match="not a whole number"):
            durations.parse(text)
    else:
        assert durations.parse(text) == seconds


@given(st.text(max_size=30))
def test_any_text_is_a_duration_or_refused(text):
    try:
        seconds = durations.parse(text)
    except ValueError:
        return
    assert seconds >= 0
    assert Fraction(seconds).denominator == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("300s", 300),
        ("10m", 600),
        ("720h", 2592000),
        ("1h30m", 5400),
        ("1h0m30s", 3630),
        ("1.5m", 90),
        (".5h", 1800),
        ("1.h", 3600),
        ("+3s", 3),
        ("2000ms", 2),
        ("3000000us", 3),
        ("3000000µs", 3),
        ("4000000μs", 4),
        ("5000000000ns", 5),
        (300_000_000_000, 300),
        (0, 0),
    ],
)
def test_durations_are_read_as_go_reads_them(value, seconds):
    assert durations.parse(value) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (1, "1s"), (90, "90s"), (300, "5m"), (5400, "90m"), (2592000, "720h")],
)
def test_durations_are_written_in_the_largest_unit_without_a_fraction(seconds, text):
    assert durations.write(seconds) == text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("1500ms", '1500ms is not a whole number of seconds: "2s" would be one'),
        ("61.5s", '61.5s is not a whole number of seconds: "62s" would be one'),
        (300, '300 nanoseconds is not a whole number of seconds: for 300 seconds write "300s"'),
    ],
)
def test_a_fraction_of_a_second_is_refused_with_what_may_have_been_meant(value, told):
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        durations.parse(value)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("300", "not a duration"),
        ("", "not a duration"),
        ("s", "not a duration"),
        (".s", "not a duration"),
        ("5 s", "not a duration"),
        ("5S", "not a duration"),
        ("1d", "not a duration"),
        ("1e3s", "not a duration"),
        ("--5s", "not a duration"),
        ("5s\n", "not a duration"),
        ("٣s", "not a duration"),
        ("9" * 21 + "s", "not a duration"),
        ("1s" * 60, "not a duration"),
        ("-5s", "below zero"),
        (-1, "below zero"),
        ("0.5s", "not a whole number"),
        ("1500ms", "not a whole number"),
        (300, "nanoseconds"),
        (True, "is expected"),
        (1.0, "is expected"),
        ([], "is expected"),
    ],
)
def test_other_values_are_refused_with_the_reason(value, word):
    with pytest.raises(ValueError, match=word):
        durations.parse(value)
