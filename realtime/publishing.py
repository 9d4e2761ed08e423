"""From what somebody wants published to the act that does it.

Called by the session for clients and by ``services`` for everybody else; who may publish was
decided before. Every bound that protects receivers is checked here, once, at the sender.
"""

import itertools
from dataclasses import dataclass

import msgspec
from msgspec import Raw

from realtime import conf
from realtime.broker import acts
from realtime.broker.acts import Published, Retention
from realtime.protocol import codec
from realtime.protocol.errors import BadRequest
from realtime.protocol.messages import UINT64_MAX, ClientInfo, Publication, is_absent
from realtime.redis_act import Act
from realtime.snapshot import ChannelOptions

IDEMPOTENCY_KEY_MAX_BYTES = 256
TAGS_MAX_BYTES = 4096
VERSION_EPOCH_MAX_BYTES = 256


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How one publication differs from what its namespace says.

    Attributes:
        skip_history: Sent to who is there, not kept: it has no offset.
        tags: Texts that travel with the publication.
        idempotency_key: A repeat within five minutes answers with the first one's position.
        version: Above 0, a publication that is not newer than the last one is dropped.
        version_epoch: Versions compare only within one; empty stands for any.
    """

    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    version: int = 0
    version_epoch: str = ""


PLAIN = PublishOptions()
_NOTHING_KEPT = Retention()


def prepare(
    channel: str,
    data: Raw,
    namespace: ChannelOptions,
    *,
    options: PublishOptions = PLAIN,
    info: ClientInfo | None = None,
) -> Act[Published]:
    """Return the act that publishes ``data``.

    Raises:
        BadRequest: See ``body_of``.
    """
    body = body_of(data, namespace, options=options, info=info)
    return act_of(channel, body, namespace, options=options)


def body_of(
    data: Raw,
    namespace: ChannelOptions,
    *,
    options: PublishOptions = PLAIN,
    info: ClientInfo | None = None,
) -> bytes:
    """Return what is stored and sent of a publication, the same in every channel of a namespace.

    Raises:
        BadRequest: Empty data, not JSON as every receiver reads it, not of the namespace's
            format, larger than ``publication_max_bytes``, or an option out of bounds.
    """
    if options is not PLAIN:
        _check_options(options)
    checked = _checked(data, namespace)
    return codec.encode_publication(Publication(data=checked, info=info, tags=options.tags or None))


def act_of(
    channel: str, body: bytes, namespace: ChannelOptions, *, options: PublishOptions = PLAIN
) -> Act[Published]:
    """Return the act that publishes what ``body_of`` gave for the same namespace and options."""
    kept = namespace.has_history and not options.skip_history
    return acts.publish(
        channel,
        body,
        retention=_retention(namespace) if kept else _NOTHING_KEPT,
        idempotency_key=options.idempotency_key,
        version=options.version,
        version_epoch=options.version_epoch,
    )


def _retention(namespace: ChannelOptions) -> Retention:
    return Retention(namespace.history_size, namespace.history_ttl, namespace.history_meta_ttl)


def _checked(data: Raw, namespace: ChannelOptions) -> Raw:
    if is_absent(data):
        raise BadRequest("no data")
    content = bytes(data)
    if len(content) > conf.current().publication_max_bytes:
        raise BadRequest(f"data exceeds {conf.current().publication_max_bytes} bytes")
    payload = codec.payload(content)
    if namespace.publication_data_format == "json_object" and not payload.lstrip().startswith(b"{"):
        raise BadRequest("data is not a JSON object")
    return Raw(payload)


def _check_options(options: PublishOptions) -> None:
    check_text("idempotency_key", options.idempotency_key, max_bytes=IDEMPOTENCY_KEY_MAX_BYTES)
    if not 0 <= options.version <= UINT64_MAX:
        raise BadRequest("version is not an unsigned 64-bit number")
    check_text("version_epoch", options.version_epoch, max_bytes=VERSION_EPOCH_MAX_BYTES)
    texts = itertools.chain.from_iterable((options.tags or {}).items())
    check_text("tags", "".join(texts), max_bytes=TAGS_MAX_BYTES)


def check_text(name: str, text: str, *, max_bytes: int) -> None:
    """Refuse a text that is too long to be kept and passed on.

    Raises:
        BadRequest: Longer than that, or not valid Unicode; it begins with the name.
    """
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadRequest(f"{name} is not valid Unicode") from error
    if size_bytes > max_bytes:
        raise BadRequest(f"{name} exceeds {max_bytes} bytes")


def encoded(data: object) -> Raw:
    """Return a Python value as JSON; ``Raw`` is taken as it is.

    Raises:
        BadRequest: It has no JSON form.
    """
    if isinstance(data, Raw):
        return data
    try:
        return Raw(msgspec.json.encode(data))
    except (TypeError, ValueError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"data has no JSON form: {error}") from error
