import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from realtime.protocol.messages import Publication, StreamPosition
from realtime.recovery import FAILED, UNKNOWN, History, Recovery, recover, recover_newest

EPOCHS = ["", "now", "before", "other", "_"]


def publications(*offsets):
    return [Publication(Raw(b"%d" % offset), offset=offset) for offset in offsets]


def stream(first, top, *, previous=UNKNOWN):
    """Return a stream that holds ``first`` to ``top``."""
    kept = publications(*range(first, top + 1))
    return History(kept, StreamPosition(top, "now"), previous)


def recovered(since, history, *, limit=300):
    return recover(since, history, limit=limit)


def offsets_of(recovery):
    return [publication.offset for publication in recovery.publications]


@st.composite
def histories(draw):
    """Return any list of entries, whole or not, with a top at or above the last one."""
    offsets = sorted(draw(st.sets(st.integers(1, 15))))
    top = draw(st.integers(offsets[-1] if offsets else 0, 18))
    previous = draw(st.sampled_from([StreamPosition(), StreamPosition(top // 2, "before")]))
    return History(publications(*offsets), StreamPosition(top, "now"), previous)


positions = st.builds(StreamPosition, st.integers(0, 20), st.sampled_from(EPOCHS))


@given(positions, histories(), st.integers(0, 20))
@example(StreamPosition(1, "now"), History(publications(2, 4), StreamPosition(4, "now")), 9)
def test_what_counts_as_recovered_has_no_hole(since, history, limit):
    recovery = recovered(since, history, limit=limit)

    if recovery.is_recovered:
        whole = list(range(since.offset + 1, history.position.offset + 1))
        assert offsets_of(recovery) == whole
        assert len(whole) <= limit


@pytest.mark.rule("subscribe-publications-if-recovered")
@given(positions, histories())
def test_only_what_is_recovered_carries_publications(since, history):
    recovery = recovered(since, history)

    assert recovery.is_recovered or not recovery.publications


@pytest.mark.rule("recover-other-epoch")
@given(positions, histories())
def test_a_position_of_an_unknown_epoch_never_recovers(since, history):
    recovery = recovered(since, history)

    if since.epoch not in ("", "now", history.previous.epoch):
        assert recovery == FAILED


@pytest.mark.rule("recover-empty-epoch")
@given(st.data(), st.integers(1, 30), st.integers(0, 30))
def test_a_kept_stream_recovers_everybody_who_is_within_it(data, first, kept_count):
    top = first + kept_count - 1
    since = StreamPosition(
        data.draw(st.integers(first - 1, top)), data.draw(st.sampled_from(("", "now")))
    )

    recovery = recovered(since, stream(first, top))

    assert recovery.is_recovered
    assert offsets_of(recovery) == list(range(since.offset + 1, top + 1))


def test_entries_the_client_holds_already_are_left_out():
    assert offsets_of(recovered(StreamPosition(3, "now"), stream(1, 5))) == [4, 5]


def test_who_missed_nothing_is_recovered_without_publications():
    assert recovered(StreamPosition(5, "now"), stream(1, 5)) == Recovery(True)


@pytest.mark.rule("recover-nothing-missed", "recover-entries-gone")
def test_nothing_missed_of_a_stream_whose_entries_have_lapsed_is_recovered():
    history = History([], StreamPosition(5, "now"))

    assert recovered(StreamPosition(5, "now"), history).is_recovered
    assert recovered(StreamPosition(4, "now"), history) == FAILED


def test_an_empty_stream_recovers_who_starts_at_zero():
    history = History([], StreamPosition(0, "now"))

    assert recovered(StreamPosition(), history).is_recovered


@pytest.mark.rule("recover-trimmed")
def test_a_trimmed_start_is_a_loss():
    assert recovered(StreamPosition(1, "now"), stream(3, 5)) == FAILED
    assert recovered(StreamPosition(2, "now"), stream(3, 5)).is_recovered


@pytest.mark.rule("recover-above-top")
@pytest.mark.parametrize("epoch", ["", "now", "before"])
def test_a_position_above_the_top_is_not_recovered_under_any_epoch(epoch):
    history = stream(1, 5, previous=StreamPosition(6, "before"))

    assert not recovered(StreamPosition(6, epoch), history).is_recovered


@pytest.mark.rule("recover-limit")
def test_the_limit_is_of_what_is_missed_not_of_what_is_kept():
    assert recovered(StreamPosition(2, "now"), stream(1, 5), limit=3).is_recovered
    assert recovered(StreamPosition(1, "now"), stream(1, 5), limit=3) == FAILED


@pytest.mark.rule("stream-restart-new-epoch")
def test_a_position_of_the_previous_epoch_is_good_up_to_its_end():
    history = stream(1, 7, previous=StreamPosition(5, "before"))

    assert offsets_of(recovered(StreamPosition(5, "before"), history)) == [6, 7]
    assert offsets_of(recovered(StreamPosition(4, "before"), history)) == [5, 6, 7]
    assert recovered(StreamPosition(6, "before"), history) == FAILED


@pytest.mark.rule("sentinel-never-recovers")
def test_the_sentinel_of_an_invalidated_state_matches_no_epoch():
    assert recovered(StreamPosition(0, "_"), stream(1, 3)) == FAILED


@pytest.mark.parametrize(
    ("position", "continues"),
    [
        (StreamPosition(0, ""), True),
        (StreamPosition(7, ""), True),
        (StreamPosition(8, ""), False),
        (StreamPosition(7, "now"), True),
        (StreamPosition(8, "now"), False),
        (StreamPosition(5, "before"), True),
        (StreamPosition(6, "before"), False),
        (StreamPosition(0, "other"), False),
        (StreamPosition(0, "_"), False),
    ],
)
def test_a_stream_continues_a_position_of_its_own_or_the_epoch_before(position, continues):
    history = stream(1, 7, previous=StreamPosition(5, "before"))

    assert history.continues(position) is continues


def test_a_stream_without_a_previous_epoch_continues_its_own_alone():
    assert not stream(1, 7).continues(StreamPosition(0, "before"))


# The newest alone -----------------------------------------------------------------------------


def test_of_a_cache_a_client_gets_the_newest():
    newest = recover_newest(StreamPosition(2, "now"), stream(1, 5))

    assert newest.is_recovered
    assert offsets_of(newest) == [5]


@pytest.mark.parametrize(
    "since",
    [StreamPosition(0, ""), StreamPosition(5, ""), StreamPosition(5, "other"), StreamPosition(9)],
)
def test_who_cannot_show_that_it_has_the_newest_gets_it(since):
    assert offsets_of(recover_newest(since, stream(5, 5))) == [5]


def test_who_has_the_newest_is_recovered_without_it():
    assert recover_newest(StreamPosition(5, "now"), stream(1, 5)) == Recovery(True)


def test_who_had_the_newest_before_a_restart_that_lost_nothing_has_it_still():
    history = stream(1, 5, previous=StreamPosition(5, "before"))

    assert recover_newest(StreamPosition(5, "before"), history) == Recovery(True)


def test_a_cache_without_its_newest_recovers_only_who_has_it():
    lapsed = History([], StreamPosition(5, "now"))

    assert recover_newest(StreamPosition(5, "now"), lapsed) == Recovery(True)
    assert recover_newest(StreamPosition(4, "now"), lapsed) == FAILED


def test_an_older_entry_is_never_given_for_the_newest():
    evicted = History(publications(3, 4), StreamPosition(5, "now"))

    assert recover_newest(StreamPosition(3, "now"), evicted) == FAILED


def test_a_cache_that_nothing_was_published_to_recovers_nobody():
    empty = History([], StreamPosition(0, "now"))

    assert recover_newest(StreamPosition(), empty) == FAILED
