from hypothesis import example, given
from hypothesis import strategies as st

from realtime.redis_keys import CONTROL, CONTROL_GROUP, INSTANCES, of_channel, survey

channels = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(channels, channels)
@example("news", "$news")
@example("a:b", "a:b ")
def test_two_channels_share_no_key(one, other):
    if one != other:
        assert not set(of_channel(one)) & set(of_channel(other))


@given(channels)
def test_the_keys_of_a_channel_are_different_and_on_one_server(channel):
    keys = of_channel(channel)

    assert len(set(keys)) == len(keys)
    # What stands in braces decides the slot; a brace of the channel's own must not.
    assert all(key.startswith(f"rt:{{{keys.group}}}:") for key in keys[1:])


@given(channels)
def test_a_group_is_a_name_that_channels_allows(channel):
    group = of_channel(channel).group

    assert len(group) < 100
    assert group.isalnum()
    assert group.isascii()


def test_no_channel_has_the_keys_of_the_control_stream():
    assert not set(of_channel("control")) & set(CONTROL)
    assert not set(of_channel(CONTROL_GROUP)) & set(CONTROL)
    assert len({*CONTROL, INSTANCES, survey("x")}) == len(CONTROL) + 2


def test_the_keys_of_a_channel_are_those_of_the_last_release():
    # Another digest would cut every client off from its history at an update.
    group = "451966dc3e36ee1d080f7fc56a460600"

    assert of_channel("news") == (
        group,
        f"rt:{{{group}}}:meta",
        f"rt:{{{group}}}:stream",
        f"rt:{{{group}}}:presence",
        f"rt:{{{group}}}:presence_expiry",
        f"rt:{{{group}}}:idem:",
    )
