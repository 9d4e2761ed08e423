"""Silence begins once, is long after a deadline, and ends with any sign of life."""

import asyncio

from realtime.silence import Silence


async def test_it_is_not_long_before_the_deadline_has_passed():
    silence = Silence(long_seconds=30)
    assert not silence.has_begun
    assert not silence.is_long

    silence.begin()

    assert silence.has_begun
    assert not silence.is_long


async def test_what_began_a_deadline_ago_is_long():
    silence = Silence(long_seconds=30)

    silence.begin(seconds_ago=30)

    assert silence.is_long


async def test_the_first_time_counts():
    silence = Silence(long_seconds=30)
    silence.begin(seconds_ago=30)

    silence.begin()

    assert silence.is_long


async def test_a_sign_of_life_ends_it():
    silence = Silence(long_seconds=0)
    silence.begin()
    await asyncio.sleep(0)
    assert silence.is_long

    silence.end()

    assert not silence.has_begun
    assert not silence.is_long
