"""Django's user behind the user id of a connection. In a thread: it asks the database."""

from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError


def find(user: str) -> Any:
    """Return Django's user of an id, an AnonymousUser for an empty one, None if none is active."""
    # Not imported above: a project without users has no such model.
    from django.contrib.auth.models import AnonymousUser

    if not user:
        return AnonymousUser()
    users = get_user_model()
    try:
        key = users._meta.pk.to_python(user)
    except ValidationError:
        return None
    # "07" is not 7's own name: what becomes of 7 is told of by "7".
    if str(key) != user or "\0" in user:
        return None
    found = users._default_manager.filter(pk=key).first()
    return found if found is not None and found.is_active else None
