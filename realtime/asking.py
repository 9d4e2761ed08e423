"""Who is asked about a client's commands, and what is made of the answers.

A provider of ``hooks``, such as an upstream, decides: it stands in place of a channel's options.
The handlers of ``realtime_handlers`` come after whoever decided, and hear what is about to happen.
Called by the handlers of the commands.
"""

import logging
from typing import Final

from msgspec import Raw, structs

from realtime import answering, conf, hooks, rules
from realtime.hooks import (
    Answer,
    Answerer,
    CallFailed,
    ConnectAnswer,
    Kind,
    PublishAnswer,
    Request,
)
from realtime.permissions import USER_BOUNDARY
from realtime.protocol import codec
from realtime.protocol.errors import BadRequest, MethodNotFound, NotAvailable
from realtime.protocol.messages import (
    ABSENT,
    ConnectRequest,
    RPCRequest,
    RPCResult,
    SubscribeRequest,
    is_absent,
)
from realtime.publishing import PLAIN, PublishOptions
from realtime.session import Session
from realtime.snapshot import PRIVATE_PREFIX, ChannelOptions
from realtime.tokens import ConnectionClaims, SubscribeOptions

logger = logging.getLogger(__name__)

EMULATED_HEADERS_MAX_BYTES: Final = 4096  # kept for as long as the connection lives


async def _ask(session: Session, answerer: Answerer, request: Request) -> Answer:
    return await session.instance.calls.ask(answerer, request)


def _data(given: Raw) -> Raw:
    return codec.optional_payload(given) or ABSENT


def _wrong(answerer: Answerer, answer: Answer) -> CallFailed:
    return CallFailed(f"{answerer.label} answered with {type(answer).__name__}")


# RPC -----------------------------------------------------------------------------------------


def find_method(session: Session, request: RPCRequest) -> tuple[Answerer, Request]:
    """Return who answers a method, and what to ask.

    Raises:
        MethodNotFound: There are methods, but not this one.
        NotAvailable: There are none.
        BadRequest: The data is not JSON as everybody reads it.
    Source: Centrifugo client protocol, rpc.
    """
    method, parts = request.method or "", session.instance.parts
    answerer = hooks.find(Kind.RPC, method, parts) if method else None
    if answerer is None:
        if hooks.offers(Kind.RPC, parts):
            raise MethodNotFound(f"no method {method!r:.100}")
        raise NotAvailable("no method is configured")
    return answerer, Request(session.peer(), method=method, data=_data(request.data))


async def rpc_result(session: Session, answerer: Answerer, request: Request) -> RPCResult:
    """Return what a method answers.

    Raises:
        ProtocolError: The answerer's; or CallFailed for a result that half of the connection's
            queue has no room for, because it would cut off who asked.
        Disconnected: The answerer ends the connection.
    """
    answer = await _ask(session, answerer, request)
    if answer is None:
        return RPCResult()
    if not isinstance(answer, Raw):
        raise _wrong(answerer, answer)
    size = len(bytes(answer))
    if size > conf.current().queue_max_bytes // 2:
        logger.warning("%s: its result of %d bytes was too large to be sent", answerer.label, size)
        raise CallFailed(f"a result of {size} bytes")
    return RPCResult(answer if bytes(answer) else ABSENT)


# Connect -------------------------------------------------------------------------------------


def asks_at_connect(session: Session, request: ConnectRequest) -> bool:
    """Tell whether anybody is asked before a client is let in."""
    if answering.registry.connects:
        return True
    return not request.token and hooks.find(Kind.CONNECT, "", session.instance.parts) is not None


def keep_headers(session: Session, request: ConnectRequest) -> None:
    """Keep what a client claims to have for headers, if there is somebody to show it to."""
    parts = session.instance.parts
    if not request.headers or not any(hooks.offers(kind, parts) for kind in Kind):
        return
    claimed = {name.lower(): value for name, value in request.headers.items()}
    if sum(map(len, (*claimed, *claimed.values()))) > EMULATED_HEADERS_MAX_BYTES:
        logger.warning("client %s: headers of its connect are too long to keep", session.client)
        return
    session.extras().emulated_headers = claimed


async def who_connects(session: Session, request: ConnectRequest) -> ConnectAnswer | None:
    """Return who a connection without a token is, None if nobody knows."""
    answerer = hooks.find(Kind.CONNECT, "", session.instance.parts)
    if answerer is None:
        return None
    asked = Request(
        session.peer(),
        data=_data(request.data),
        name=request.name or "",
        version=request.version or "",
        channels=tuple(request.subs or ()),
    )
    answer = await _ask(session, answerer, asked)
    if answer is not None and not isinstance(answer, ConnectAnswer):
        raise _wrong(answerer, answer)
    return answer


async def welcome(session: Session, request: ConnectRequest, claims: ConnectionClaims) -> Raw:
    """Tell the handlers who is about to be let in; return what they have for it."""
    answers: list[Raw] = []
    if not answering.registry.connects:
        return ABSENT
    info, meta = claims.info or ABSENT, claims.meta or ABSENT
    peer = structs.replace(session.peer(), user=claims.user, info=info, meta=meta)
    asked = Request(peer, data=_data(request.data))
    for answerer in answering.registry.connects:
        answer = await _ask(session, answerer, asked)
        if isinstance(answer, Raw) and bytes(answer):
            answers.append(answer)
    return answers[-1] if answers else ABSENT


# Subscribe -----------------------------------------------------------------------------------


def asks_at_subscribe(session: Session, request: SubscribeRequest) -> bool:
    """Tell whether anybody may be asked before a client is subscribed."""
    channel = request.channel or ""
    return (
        hooks.find(Kind.SUBSCRIBE, channel, session.instance.parts) is not None
        or bool(answering.registry.on_subscribe(channel))
        or (not request.token and asks_rule(session, channel))
    )


def asks_rule(session: Session, channel: str) -> bool:
    """Tell whether a channel rule is to be asked, which may take a while."""
    if rules.find(channel) is None:
        return False
    return not session.instance.rules.is_known(session.user, channel)


def who_decides(
    session: Session, request: SubscribeRequest, options: ChannelOptions
) -> Answerer | None:
    """Return who decides about a subscribe without a token, None if the options do.

    Source: Centrifugo client protocol, subscribe: checks in order.
    """
    channel = request.channel or ""
    is_limited = options.allow_user_limited_channels and USER_BOUNDARY in channel
    if is_limited or channel.startswith(PRIVATE_PREFIX):
        return None
    return hooks.find(Kind.SUBSCRIBE, channel, session.instance.parts)


async def subscribe_options(
    session: Session, answerer: Answerer, request: SubscribeRequest
) -> SubscribeOptions:
    """Return what a subscription is made with that somebody has allowed."""
    asked = _about_subscribe(session, request)
    answer = await _ask(session, answerer, asked)
    if not isinstance(answer, SubscribeOptions):
        raise _wrong(answerer, answer)
    return answer


async def tell_of_subscribe(session: Session, request: SubscribeRequest) -> None:
    """Tell the handlers of a client that is about to be subscribed; they may refuse."""
    told = answering.registry.on_subscribe(request.channel or "")
    for answerer in told:
        await _ask(session, answerer, _about_subscribe(session, request))


def _about_subscribe(session: Session, request: SubscribeRequest) -> Request:
    channel = request.channel or ""
    return Request(session.peer(), channel=channel, data=_data(request.data))


# Publish -------------------------------------------------------------------------------------


def asks_at_publish(session: Session, channel: str) -> bool:
    """Tell whether anybody is asked before a client's publication is published."""
    return (
        who_decides_publish(session, channel) is not None
        or bool(answering.registry.on_publish(channel))
        or asks_rule(session, channel)
    )


def who_decides_publish(session: Session, channel: str) -> Answerer | None:
    """Return who decides about a client's publication, None if the options do."""
    return hooks.find(Kind.PUBLISH, channel, session.instance.parts)


async def publication(
    session: Session, channel: str, data: Raw, decider: Answerer | None
) -> tuple[Raw, PublishOptions]:
    """Return what is published in place of a client's data, and how."""
    if is_absent(data):
        raise BadRequest("no data")
    options = PLAIN
    told = answering.registry.on_publish(channel)
    if decider is not None or told:
        data = _data(data)
    if decider is not None:
        asked = Request(session.peer(), channel=channel, data=data)
        answer = await _ask(session, decider, asked)
        if not isinstance(answer, PublishAnswer):
            raise _wrong(decider, answer)
        data, options = answer.data or data, _publish_options(answer)
    for answerer in told:
        asked = Request(session.peer(), channel=channel, data=data)
        replaced = await _ask(session, answerer, asked)
        if isinstance(replaced, Raw) and bytes(replaced):
            data = replaced
    return data, options


def _publish_options(answer: PublishAnswer) -> PublishOptions:
    return PublishOptions(
        answer.skip_history,
        answer.tags,
        answer.idempotency_key,
        answer.version,
        answer.version_epoch,
    )
