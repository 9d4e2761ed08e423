"""Tokens for signed-in Django users: ``/api/token/connection`` and ``/api/token/subscription``.

A subscription token stands above what its channel allows, so none is signed unless the channel's
rule lets that user subscribe, or, where it has none, the function that ``REALTIME_CHANNEL_RULE``
names. Refusals are JSON, never a redirect, because a script asks.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from asgiref.sync import sync_to_async
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import HttpRequest, JsonResponse
from django.http.request import RawPostDataException
from django.utils.module_loading import import_string
from django.views.decorators.http import require_GET, require_POST

from api.schemas import MalformedBody, SubscriptionTokenRequest, decode
from realtime import conf, services
from realtime.protocol.errors import InternalError
from realtime.tokens import sign_connection_token, sign_subscription_token

logger = logging.getLogger(__name__)

User = AbstractBaseUser | AnonymousUser
ChannelRule = Callable[[User, str], bool | Awaitable[bool]]


class Refused(Exception):
    """No token; the status and the words of the answer."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@require_GET
async def connection(request: HttpRequest) -> JsonResponse:
    """Answer with a connection token for the signed-in user."""
    try:
        user = await _signed_in(request)
        return _answer({"token": sign_connection_token(str(user.pk))})
    except Refused as refused:
        return _answer({"error": refused.message}, refused.status)
    except Exception:
        logger.exception("no connection token was made")
        return _answer({"error": "internal server error"}, HTTPStatus.INTERNAL_SERVER_ERROR)


@require_POST
async def subscription(request: HttpRequest) -> JsonResponse:
    """Answer with a subscription token for the asked channel, if the rule allows it."""
    try:
        user = await _signed_in(request)
        channel = _channel_of(request)
        await _check(user, channel)
        return _answer({"token": sign_subscription_token(str(user.pk), channel)})
    except Refused as refused:
        return _answer({"error": refused.message}, refused.status)
    except Exception:
        logger.exception("no subscription token was made")
        return _answer({"error": "internal server error"}, HTTPStatus.INTERNAL_SERVER_ERROR)


def _answer(content: dict[str, str], status: HTTPStatus = HTTPStatus.OK) -> JsonResponse:
    return JsonResponse(content, status=status, headers={"Cache-Control": "no-store"})


async def _signed_in(request: HttpRequest) -> User:
    user = await request.auser()
    if not user.is_authenticated:
        raise Refused(HTTPStatus.UNAUTHORIZED, "sign in first")
    return user


async def _check(user: User, channel: str) -> None:
    try:
        verdict = await services.amay_subscribe(str(user.pk), channel)
    except InternalError as error:  # which has been logged
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "try again later") from error
    if verdict is None:
        await _ask(_rule(), user, channel)
    elif not verdict:
        raise Refused(HTTPStatus.FORBIDDEN, "not allowed")


def _rule() -> ChannelRule:
    path = conf.current().channel_rule
    if not path:
        raise Refused(
            HTTPStatus.FORBIDDEN,
            "no subscription tokens are made here for this channel: it has no channel rule, and "
            "REALTIME_CHANNEL_RULE names no function",
        )
    rule: ChannelRule = import_string(path)
    return rule


def _channel_of(request: HttpRequest) -> str:
    try:
        channel = decode(request.body, SubscriptionTokenRequest).channel or ""
    except (MalformedBody, RawPostDataException) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, 'send JSON: {"channel": "name"}') from error
    except RequestDataTooBig as error:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large") from error
    if not 0 < len(channel.encode()) <= conf.current().channel_name_max_bytes:
        raise Refused(HTTPStatus.BAD_REQUEST, "the channel's name is empty or too long")
    # A rule will look the name up in a database, and PostgreSQL takes no NUL in a text.
    if "\0" in channel:
        raise Refused(HTTPStatus.BAD_REQUEST, "the channel's name contains NUL")
    return channel


async def _ask(rule: ChannelRule, user: User, channel: str) -> None:
    """Return if the rule says True, and nothing else: what is merely true may be a mistake."""
    try:
        # In a thread, because a rule may well ask the database; a coroutine is only made there.
        verdict = await sync_to_async(lambda: rule(user, channel))()
        if inspect.isawaitable(verdict):
            verdict = await verdict
    except PermissionDenied:
        verdict = False
    if not isinstance(verdict, bool):
        logger.error("channel rule answered %r, which is neither True nor False", verdict)
    if verdict is not True:
        raise Refused(HTTPStatus.FORBIDDEN, "not allowed")
