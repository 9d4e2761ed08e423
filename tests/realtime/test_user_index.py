"""Connections by user, whether a user has one or many."""

import pytest

from realtime.user_index import UserIndex


class Owned:
    def __init__(self, user):
        self.user = user


@pytest.fixture
def index():
    return UserIndex()


def added(index, *users):
    items = [Owned(user) for user in users]
    for item in items:
        index.add(item)
    return items


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_users_are_found_in_the_order_they_came(index, count):
    items = added(index, *["a"] * count)
    added(index, "b")

    assert list(index.of("a")) == items
    assert len(index.of("a")) == count
    assert len(index) == 2


def test_nobody_has_nothing(index):
    assert list(index.of("a")) == []
    assert len(index) == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_who_was_taken_out_is_not_found(index, count):
    items = added(index, *["a"] * count)

    index.discard(items[0])

    assert list(index.of("a")) == items[1:]
    assert len(index) == (count > 1)


def test_the_last_one_ends_the_user(index):
    items = added(index, "a", "a", "b")

    for item in items:
        index.discard(item)

    assert len(index) == 0


def test_a_user_may_come_back(index):
    first, second = added(index, "a", "a")
    index.discard(first)
    index.discard(second)

    (third,) = added(index, "a")

    assert list(index.of("a")) == [third]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_taking_out_what_is_not_in_does_no_harm(index, count):
    items = added(index, *["a"] * count)

    index.discard(Owned("a"))

    assert list(index.of("a")) == items
