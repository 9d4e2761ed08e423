"""The bodies of Centrifugo's proxies: from a question to bytes, and from bytes to an answer.

Pure. Payloads keep the bytes they were written with, both ways, and are checked on the way in.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeVar, get_args

import msgspec
from msgspec import Raw, Struct

from realtime.hooks import (
    Answer,
    ApplicationError,
    CallFailed,
    ConnectAnswer,
    Kind,
    PublishAnswer,
    RefreshAnswer,
    Request,
)
from realtime.protocol import codec
from realtime.protocol.disconnects import Disconnect, Disconnected
from realtime.protocol.errors import BadRequest
from realtime.protocol.messages import ABSENT, OverrideFlags, is_absent
from realtime.tokens import Override, SubscribeOptions

REASON_MAX_BYTES: Final = 123  # what a close frame has room for


# Questions ---------------------------------------------------------------------------------------


def encoded(kind: Kind, request: Request, *, has_meta: bool, has_client: bool = True) -> bytes:
    """Return the body of a question.

    Args:
        has_meta: Whether the connection's meta is told.
        has_client: Without it, what is asked on behalf of whichever connection of a user: two that
            are equal are one question.
    Source: Centrifugo proxy requests.
    """
    peer = request.peer
    fields: dict[str, Any] = {"client": peer.client} if has_client else {}
    fields |= {"transport": peer.transport, "protocol": peer.protocol, "encoding": peer.encoding}
    if kind is not Kind.CONNECT:
        fields["user"] = peer.user
        if has_meta and not is_absent(peer.meta):
            fields["meta"] = peer.meta
    for name in ("method", "channel", "token", "name", "version", "channels"):
        value = getattr(request, name)
        if value:
            fields[name] = value
    if not is_absent(request.data):
        fields["data"] = request.data
    return msgspec.json.encode(fields)


def headers(
    request: Request, *, emulated: tuple[str, ...], of_handshake: tuple[str, ...]
) -> dict[str, str]:
    """Return the headers of a connection that its upstream is shown.

    A name in the handshake goes before one that the client's ``connect`` claims.
    """
    claimed, shown = request.peer.emulated_headers, request.peer.headers
    lowered = {name.lower(): value for name, value in claimed.items()} if emulated else {}
    found = {name: lowered[name] for name in emulated if name in lowered}
    found |= {name: shown[name] for name in of_handshake if name in shown}
    # A line break in a value would be another header.
    return {name: value for name, value in found.items() if value.isprintable()}


# Answers -----------------------------------------------------------------------------------------


class _Error(Struct):
    code: int | None = None
    message: str | None = None
    temporary: bool | None = None


class _Disconnect(Struct):
    code: int | None = None
    reason: str | None = None


class _Answer(Struct):
    result: Raw = ABSENT
    error: _Error | None = None
    disconnect: _Disconnect | None = None


class _Subscribe(Struct):
    expire_at: int | None = None
    info: Raw = ABSENT
    b64info: str | None = None
    data: Raw = ABSENT
    b64data: str | None = None
    override: OverrideFlags | None = None


class _Connect(Struct):
    user: str | None = None
    expire_at: int | None = None
    info: Raw = ABSENT
    b64info: str | None = None
    data: Raw = ABSENT
    b64data: str | None = None
    channels: list[str] | None = None
    subs: dict[str, Raw] | None = None
    meta: Raw = ABSENT


class _Refresh(Struct):
    expired: bool | None = None
    expire_at: int | None = None
    info: Raw = ABSENT
    b64info: str | None = None
    meta: Raw = ABSENT


class _Publish(Struct):
    data: Raw = ABSENT
    b64data: str | None = None
    skip_history: bool | None = None
    tags: dict[str, str | None] | None = None
    idempotency_key: str | None = None
    version: int | None = None
    version_epoch: str | None = None


class _Rpc(Struct):
    data: Raw = ABSENT
    b64data: str | None = None


_Form = TypeVar("_Form", bound=Struct)


def decoded(kind: Kind, body: bytes) -> Answer:
    """Return what an upstream has answered.

    Raises:
        CallFailed: It is not an answer to this kind of question.
        ApplicationError: It answers with an error.
        Disconnected: It ends the connection.
    Source: Centrifugo proxy answers; ``disconnect`` is looked at first, then ``error``.
    """
    try:
        body.decode("utf-8")
        answer = _read(body, _Answer)
        if kind not in (Kind.REFRESH, Kind.SUB_REFRESH):
            _raise_told(answer)
        return _READERS[kind](None if is_absent(answer.result) else answer.result)
    except (msgspec.DecodeError, UnicodeError, RecursionError, BadRequest, ValueError) as error:
        raise CallFailed(f"bad answer: {error}") from error


def _read(content: bytes | Raw, form: type[_Form]) -> _Form:
    """Read an object as a backend's author knows it from Centrifugo, which is written in Go.

    Names count in any case, and null is what was left out. Payloads stay as they are.
    """
    readers = _readers(form)
    found = {}
    for name, raw in _decode_names(content).items():
        lowered = name.lower()
        if lowered in readers:
            found[lowered] = readers[lowered](raw)
    return form(**found)


_decode_names: Final = msgspec.json.Decoder(dict[str, Raw]).decode


@cache
def _readers(form: type[Struct]) -> dict[str, Callable[[Raw], Any]]:
    """Return what reads each field of a form."""
    return {field.name: _reader(field.type) for field in msgspec.structs.fields(form)}


def _reader(kind: Any) -> Callable[[Raw], Any]:
    if kind is Raw:
        return lambda raw: raw
    forms = [each for each in get_args(kind) if isinstance(each, type) and issubclass(each, Struct)]
    if forms:
        return lambda raw: None if is_absent(raw) else _read(raw, forms[0])
    return msgspec.json.Decoder(kind).decode


def _raise_told(answer: _Answer) -> None:
    if answer.disconnect is not None:
        raise disconnected(answer.disconnect.code or 0, answer.disconnect.reason or "")
    if answer.error is not None:
        error = answer.error
        raise application_error(
            error.code or 0, error.message or "", temporary=bool(error.temporary)
        )


def disconnected(code: int, reason: str) -> Disconnected:
    """Return a close by an upstream, whose codes are those that a Centrifugo client knows.

    Raises:
        ValueError: Another code.
    """
    if not 3000 <= code <= 4999:
        raise ValueError(f"{code} is no code of a disconnect")
    # centrifuge-js takes a terminal code for one only if the reason is not empty.
    return Disconnected(Disconnect(code, reason or "disconnected"), "by an upstream")


def application_error(code: int, message: str, *, temporary: bool) -> ApplicationError:
    """Return an error by an upstream; beside 400-1999 it may use Centrifugo's own, 100-399.

    Raises:
        ValueError: Another code.
    """
    if not 100 <= code <= 1999:
        raise ValueError(f"{code} is no code of an error")
    return ApplicationError(code, message, temporary=temporary)


def _expire_at(value: int | None) -> int:
    if value is not None and not 0 <= value < 2**53:
        raise ValueError("expire_at is not a time")
    return value or 0


def _options(result: Raw | None) -> SubscribeOptions:
    if result is None or is_absent(result):
        return SubscribeOptions()
    given = _read(result, _Subscribe)
    return SubscribeOptions(
        info=codec.either_payload(given.info, given.b64info),
        data=codec.either_payload(given.data, given.b64data),
        override=Override.of(given.override),
        expire_at=_expire_at(given.expire_at),
    )


def _connect(result: Raw | None) -> ConnectAnswer | None:
    if result is None:
        return None
    given = _read(result, _Connect)
    subs = {channel: SubscribeOptions() for channel in given.channels or ()}
    subs |= {channel: _options(options) for channel, options in (given.subs or {}).items()}
    return ConnectAnswer(
        user=given.user or "",
        expire_at=_expire_at(given.expire_at),
        info=codec.either_payload(given.info, given.b64info),
        data=codec.either_payload(given.data, given.b64data),
        meta=codec.optional_payload(given.meta),
        subs=subs,
    )


def _refresh(result: Raw | None) -> RefreshAnswer:
    if result is None:
        return RefreshAnswer(is_expired=True)
    given = _read(result, _Refresh)
    return RefreshAnswer(
        is_expired=bool(given.expired),
        expire_at=_expire_at(given.expire_at),
        info=codec.either_payload(given.info, given.b64info),
        meta=codec.optional_payload(given.meta),
    )


def _publish(result: Raw | None) -> PublishAnswer:
    if result is None:
        return PublishAnswer()
    given = _read(result, _Publish)
    return PublishAnswer(
        data=codec.either_payload(given.data, given.b64data),
        skip_history=bool(given.skip_history),
        tags={name: tag or "" for name, tag in given.tags.items()} if given.tags else None,
        idempotency_key=given.idempotency_key or "",
        version=given.version or 0,
        version_epoch=given.version_epoch or "",
    )


def _rpc(result: Raw | None) -> Raw:
    if result is None:
        return ABSENT
    given = _read(result, _Rpc)
    return codec.either_payload(given.data, given.b64data) or ABSENT


_READERS: Final[Mapping[Kind, Callable[[Raw | None], Answer]]] = {
    Kind.CONNECT: _connect,
    Kind.REFRESH: _refresh,
    Kind.RPC: _rpc,
    Kind.SUBSCRIBE: _options,
    Kind.PUBLISH: _publish,
    Kind.SUB_REFRESH: _refresh,
}
