"""Channel rules as a project might name them in ``REALTIME_CHANNEL_RULE``."""

from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied

ASKED = []


def own_news(user, channel):
    """Allow each user the channel of that user alone, and look into the database for it."""
    ASKED.append(channel)
    return get_user_model().objects.filter(pk=user.pk).exists() and channel == f"$news:{user.pk}"


async def own_news_later(user, channel):
    return channel == f"$news:{user.pk}"


class AsyncCallable:
    async def __call__(self, user, channel):
        return channel == f"$news:{user.pk}"


own_news_object = AsyncCallable()


def fail(user, channel):
    raise RuntimeError("a secret detail")


def refuse(user, channel):
    raise PermissionDenied


def answer_text(user, channel):
    return "yes"


def answer_none(user, channel):
    return None


NOT_CALLABLE = 5
