"""``/api/v1/connections`` and ``/api/v1/namespaces``."""

from typing import Annotated

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from msgspec import UNSET
from ninja import Query, Router

from api.connection_methods import CLOSE_CODES, close_of
from api.openapi import described
from api.problems import NOT_FOUND, Refused
from api.requests import ApiRequest, answer, conditional_answer, knows_its_query
from api.results import ConnectionPage, NamespaceList, NamespaceResult
from realtime import conf, services
from realtime.protocol.disconnects import FORCE_DISCONNECT
from realtime.services import PAGE_MAX
from realtime.snapshot import Snapshot

router = Router()


@router.get(
    "/connections",
    summary="List connections",
    tags=["connections"],
    **described(200, ConnectionPage),
)
@knows_its_query
async def connections(
    request: ApiRequest,
    user: Annotated[
        str | None, Query(description="Only this user's; empty for the anonymous ones.")
    ] = None,
    channel: Annotated[str, Query(description="Only those subscribed to it.")] = "",
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    cursor: Annotated[str, Query(description="`next` of the page before.")] = "",
) -> HttpResponse:
    """List the connections of all instances; scope `connections`.

    Every instance is asked, for a second at most; `unanswered` names those whose are missing.
    """
    request.auth.require("connections")
    found, unanswered = await services.aconnections(
        user=user, channel=channel, after=cursor, limit=limit
    )
    following = found[-1].client if len(found) == limit else UNSET
    return answer(ConnectionPage(found, following, unanswered or UNSET))


@router.delete(
    "/connections/{client}",
    summary="Close a connection",
    tags=["connections"],
    **described(202, None),
)
@knows_its_query
async def close(
    request: ApiRequest,
    client: str,
    code: Annotated[
        int,
        Query(
            ge=CLOSE_CODES.start,
            lt=CLOSE_CODES.stop,
            description="3500-3999 and 4500-4999 tell the client not to come back.",
        ),
    ] = FORCE_DISCONNECT.code,
    reason: Annotated[
        str, Query(description="At most 123 bytes, and not JSON.")
    ] = FORCE_DISCONNECT.reason,
) -> HttpResponse:
    """Have one connection closed, on whichever instance it is; scope `disconnect`.

    Also answered with 202 if there is no such connection: the instances learn of it in turn.
    """
    request.auth.require("disconnect")
    chosen = close_of(code, reason)
    await services.adisconnect_client(client, code=chosen.code, reason=chosen.reason)
    accepted = HttpResponse(status=202)
    del accepted.headers["Content-Type"]  # of nothing
    return accepted


@router.get(
    "/namespaces",
    summary="List namespaces",
    tags=["namespaces"],
    **described(200, NamespaceList, is_conditional=True),
)
@knows_its_query
async def namespaces(request: ApiRequest) -> HttpResponseBase:
    """List every namespace with its options; scope `namespaces`."""
    request.auth.require("namespaces")
    known = await services.asnapshot()
    listed = [NamespaceResult(name, options) for name, options in sorted(known.namespaces.items())]
    return conditional_answer(request, NamespaceList(listed), version=_version(known))


@router.get(
    "/namespaces/{name}",
    summary="Read a namespace",
    tags=["namespaces"],
    **described(200, NamespaceResult, refusals=(404,), is_conditional=True),
)
@knows_its_query
async def namespace(request: ApiRequest, name: str) -> HttpResponseBase:
    """Return the options of one namespace; scope `namespaces`."""
    request.auth.require("namespaces")
    known = await services.asnapshot()
    options = known.namespaces.get(name)
    if options is None:
        raise Refused(NOT_FOUND, "no such namespace")
    return conditional_answer(request, NamespaceResult(name, options), version=_version(known))


def _version(known: Snapshot) -> str:
    # Another version of the code may know of more options.
    return f"{conf.VERSION}.{known.version}"
