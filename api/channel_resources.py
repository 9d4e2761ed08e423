"""``/api/v1/channels/{channel}/``: publications and presence.

A channel's name stands in the address percent-encoded as a whole, slashes too: what is between
``channels/`` and the last slash is the name, so that no name is ambiguous.
"""

from typing import Annotated, Literal

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.urls import register_converter
from msgspec import UNSET
from ninja import Path, Query, Router

from api import cursors, schemas
from api.cursors import Order
from api.openapi import described
from api.problems import NOT_JSON, Refused, invalid
from api.requests import ApiRequest, answer, conditional_answer, knows_its_query
from api.results import Position, Presence, PublicationPage, client, stored_publication
from api.schemas import PublicationBody
from realtime import services
from realtime.protocol import codec
from realtime.protocol.errors import BadRequest
from realtime.protocol.messages import is_absent
from realtime.services import PAGE_MAX


class ChannelConverter:
    """Any name, slashes and line breaks too."""

    regex = r"[\s\S]+"

    def to_python(self, value: str) -> str:
        """Return the name as it is."""
        return value

    def to_url(self, value: str) -> str:
        """Return the name as it is; Django encodes it."""
        return value


register_converter(ChannelConverter, "channel")
router = Router()
Channel = Annotated[str, Path(description="The channel's name, percent-encoded as a whole.")]


@router.post(
    "/{channel:channel}/publications",
    summary="Publish",
    tags=["publications"],
    **described(
        201,
        Position,
        body=PublicationBody,
        example={"data": {"text": "hello"}},
        refusals=(400, 404, 413, 415),
        headers={"Idempotency-Key": "The same as idempotency_key in the body."},
    ),
)
@knows_its_query
async def publish(request: ApiRequest, channel: Channel) -> HttpResponse:
    """Publish to everybody subscribed to a channel; scope `publish`.

    Stored when this is answered, if the channel has history. After a 503 it is not known whether
    it was: repeat it with the same idempotency key.
    """
    request.auth.require("publish", channel)
    _require_json(request)
    body = schemas.decode(request.body, PublicationBody)
    position = await services.apublish(
        _name(channel),
        _data(body),
        skip_history=bool(body.skip_history),
        tags=body.tags,
        idempotency_key=_idempotency_key(request, body),
        version=body.version or 0,
        version_epoch=body.version_epoch or "",
    )
    return answer(Position(position.offset, position.epoch), status=201)


def _name(channel: str) -> str:
    # The server puts this character where the address is not UTF-8.
    if "\ufffd" in channel:
        raise invalid("path", "channel", "channel is not percent-encoded UTF-8")
    return channel


def _require_json(request: ApiRequest) -> None:
    kind = request.content_type or "application/json"
    if kind != "application/json" or request.headers.get("Content-Encoding"):
        raise Refused(NOT_JSON, "send application/json, without a content encoding")


def _data(body: PublicationBody) -> object:
    if is_absent(body.data):
        raise invalid("body", "data", "data is null")
    try:
        codec.payload(body.data)
    except BadRequest as error:
        raise invalid("body", "data", str(error)) from error
    return body.data


def _idempotency_key(request: ApiRequest, body: PublicationBody) -> str:
    in_header = request.headers.get("Idempotency-Key", "")
    if len(in_header) > 1 and in_header[0] == in_header[-1] == '"':
        in_header = in_header[1:-1]
    if len(in_header.encode()) > services.IDEMPOTENCY_KEY_MAX_BYTES:
        reason = f"Idempotency-Key exceeds {services.IDEMPOTENCY_KEY_MAX_BYTES} bytes"
        raise invalid("header", "Idempotency-Key", reason)
    in_body = body.idempotency_key or ""
    if in_header and in_body and in_header != in_body:
        raise invalid("header", "Idempotency-Key", "the body has another idempotency_key")
    return in_header or in_body


@router.get(
    "/{channel:channel}/publications",
    summary="Read the history",
    tags=["publications"],
    **described(200, PublicationPage, refusals=(404, 409, 410), is_conditional=True),
)
@knows_its_query
async def publications(
    request: ApiRequest,
    channel: Channel,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    cursor: Annotated[str, Query(description="`next` of the page before.")] = "",
    order: Annotated[Order, Query(description="Oldest first, or newest first.")] = "asc",
) -> HttpResponseBase:
    """Read what is kept of a channel's stream, page by page; scope `history`.

    `offset` and `epoch` are the stream's top. 410 if what follows the cursor is not kept any more:
    begin again without one.
    """
    request.auth.require("history", channel)
    since = cursors.decode(cursor, order=order)
    read = await services.ahistory(
        _name(channel),
        limit=limit,
        since=since.position if since else None,
        reverse=order == "desc",
    )
    following = cursors.next_cursor(read, since, order=order, limit=limit)
    listed = list(map(stored_publication, read.publications))
    page = PublicationPage(listed, read.offset, read.epoch, following or UNSET)
    # Not the position alone: publications that lapse or are removed leave it as it is.
    first = read.publications[0].offset if read.publications else 0
    version = f"{read.epoch}.{read.offset}.{first}.{len(read.publications)}"
    return conditional_answer(request, page, version=version, next_cursor=following)


@router.get(
    "/{channel:channel}/presence",
    summary="Who is subscribed",
    tags=["presence"],
    **described(200, Presence, refusals=(404, 409)),
)
@knows_its_query
async def presence(
    request: ApiRequest,
    channel: Channel,
    counts: Annotated[
        Literal["", "only"], Query(description="`only`: how many, and not who.")
    ] = "",
) -> HttpResponse:
    """Return who is subscribed on all instances; scope `presence`, for counts `presence_stats`."""
    if counts:
        request.auth.require("presence_stats", channel)
        stats = await services.apresence_stats(_name(channel))
        return answer(Presence(stats.num_clients, stats.num_users))
    request.auth.require("presence", channel)
    clients = list(map(client, (await services.apresence(_name(channel))).values()))
    return answer(Presence(len(clients), len({each.user for each in clients}), clients))
