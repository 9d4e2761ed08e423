"""What Django tells of that may change a rule's decision: the objects it declares, and sign-outs.

Connected where a rule is registered and when the application is ready. Only writes rows, which
every instance reads (``access.py``): the process that hears a signal may run no instance.
"""

from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_out
from django.db import router, transaction
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save

from realtime.models import AccessChange

_watched: dict[object, str] = {}  # by what a signal is sent by, the name of the model


def forget_decisions(user: str = "", *, model: type[Model] | None = None) -> None:
    """Have rules asked again, on every instance: live subscriptions too, which may end by it.

    For what no signal and no trigger tells of, such as ``QuerySet.update()`` of objects that a
    rule watches. Within a transaction it holds once that is committed.

    Args:
        user: Only what was decided for this one, by primary key; empty is everybody.
        model: Only what rules decided that watch this model; None is all rules.
    """
    AccessChange.objects.create(user=user, model=name_of(model) if model is not None else "")


def name_of(model: type[Model]) -> str:
    """Return what a model is called in a row."""
    return model._meta.concrete_model._meta.label if model._meta.concrete_model else ""


def watch(model: type[Model]) -> None:
    """Have each change of an object, or of its many-to-many relations, noted."""
    links = [field.remote_field.through for field in model._meta.many_to_many]
    for sender in (model, *links):
        _watched[sender] = name_of(model)
    for signal in (post_save, post_delete):
        signal.connect(_changed, sender=model, dispatch_uid="realtime watches")
    for through in links:
        m2m_changed.connect(_related, sender=through, dispatch_uid="realtime watches")


def watch_sign_outs() -> None:
    """Have each sign-out noted."""
    user_logged_out.connect(_signed_out, dispatch_uid="realtime sign-outs")


def _changed(
    sender: type[Model],
    instance: Model,
    using: str,
    update_fields: frozenset[str] | None = None,
    **_: Any,
) -> None:
    if update_fields is not None and set(update_fields) == {"last_login"}:  # which logins write
        return
    is_user = sender._meta.label == settings.AUTH_USER_MODEL
    _note(str(instance.pk) if is_user else "", _watched[sender], using)


def _related(sender: type[Model], action: str, using: str, **_: Any) -> None:
    if action.startswith("post_"):
        _note("", _watched[sender], using)


def _signed_out(sender: object, user: Model | None, **_: Any) -> None:
    if user is not None:
        AccessChange.objects.create(user=str(user.pk))


def _note(user: str, model: str, using: str) -> None:
    change = AccessChange(user=user, model=model)
    if using == router.db_for_write(AccessChange):
        change.save(using=using)  # in the change's own transaction: both are seen, or neither
    else:
        transaction.on_commit(change.save, using=using)
