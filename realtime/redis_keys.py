"""Every Redis key and group name that the project writes.

A channel's keys share its digest as a hash tag, so that one script may touch them all on a
cluster too. The digest also is the name of the channel's group on the channel layer, because
Channels forbids ``:``, ``#``, ``$`` and long names there.
"""

from hashlib import blake2b
from typing import Final, NamedTuple

CONTROL_GROUP: Final = "realtime-control"
INSTANCES: Final = "rt:{control}:instances"
_DIGEST_BYTES: Final = 16


class ChannelKeys(NamedTuple):
    """The keys of one channel, and its group on the channel layer."""

    group: str
    meta: str
    stream: str
    presence: str
    presence_expiry: str
    idempotency_prefix: str


def _keys_of(tag: str, group: str) -> ChannelKeys:
    prefix = f"rt:{{{tag}}}:"
    return ChannelKeys(
        group,
        f"{prefix}meta",
        f"{prefix}stream",
        f"{prefix}presence",
        f"{prefix}presence_expiry",
        f"{prefix}idem:",
    )


def of_channel(channel: str) -> ChannelKeys:
    """Return the keys of a channel; two names never share a key."""
    digest = blake2b(channel.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return _keys_of(digest, digest)


# No digest is called "control": digests are 32 hexadecimal digits.
CONTROL: Final = _keys_of("control", CONTROL_GROUP)


def survey(survey_id: str) -> str:
    """Return the list that the answers to one survey are pushed to."""
    return f"rt:{{control}}:survey:{survey_id}"


def lease(name: str) -> tuple[str, str]:
    """Return the group that a lease is on the server of, and its key."""
    digest = blake2b(name.encode(), digest_size=_DIGEST_BYTES, person=b"lease").hexdigest()
    return digest, f"rt:{{{digest}}}:lease"
