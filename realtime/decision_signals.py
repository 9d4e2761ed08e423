"""What Django tells of that may change a rule's decision: the objects it declares, and sign-outs.

Connected where a rule is registered and when the application is ready. Only writes rows, which
every instance reads (``access.py``): the process that hears a signal may run no instance.
"""

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.signals import user_logged_out
from django.db import router, transaction
from django.db.models import Model
from django.db.models.signals import class_prepared, m2m_changed, post_delete, post_save

from realtime.models import AccessChange

# By a model, or one whose rows are links of it, the names of the models that rules watch.
_watched: dict[type[Model], set[str]] = {}


def forget_decisions(user: str = "", *, model: type[Model] | None = None) -> None:
    """Have rules asked again, on every instance: live subscriptions too, which may end by it.

    For what no signal and no trigger tells of, such as ``update``, ``bulk_create`` and
    ``bulk_update`` of objects that a rule watches. Within a transaction it holds once that is
    committed.

    Args:
        user: Only what was decided for this one, by primary key; empty is everybody.
        model: Only what rules decided that watch this model; None is all rules.
    """
    AccessChange.objects.create(user=user, model=name_of(model) if model is not None else "")


def name_of(model: type[Model]) -> str:
    """Return what a model is called in a row."""
    return _concrete(model)._meta.label


def watch(model: type[Model]) -> None:
    """Have each change of an object, or of its many-to-many relations, noted.

    Whichever model it is made with: a proxy, one that inherits from it, or one that it inherits
    from. Each is connected to, because who listens to all senders makes all deletes slow.
    """
    links = [field.remote_field.through or model for field in model._meta.many_to_many]
    for each in (model, *links):
        _watched.setdefault(_concrete(each), set()).add(name_of(model))
    for link in links:
        m2m_changed.connect(_related, sender=link, dispatch_uid="realtime watches")
    for sender in model._meta.apps.get_models():
        _listen_to(sender)
    # Such as proxies in an admin.py, which may be imported later.
    class_prepared.connect(_listen_to, dispatch_uid="realtime watches")


def _listen_to(sender: type[Model], **_: Any) -> None:
    if _names(sender):
        for signal in (post_save, post_delete):
            signal.connect(_changed, sender=sender, dispatch_uid="realtime watches")


def _names(sender: type[Model]) -> set[str]:
    """Return the watched models that an object of this one belongs to, or is a link of."""
    return {
        name
        for model, names in _watched.items()
        if model in _line(sender) or _concrete(sender) in _line(model)
        for name in names
    }


def _line(model: type[Model]) -> set[type[Model]]:
    """Return a model and what it inherits tables from."""
    return {_concrete(model), *_concrete(model)._meta.get_parent_list()}


def _concrete(model: type[Model]) -> type[Model]:
    return model._meta.concrete_model or model


def watch_sign_outs() -> None:
    """Have each sign-out noted."""
    user_logged_out.connect(_signed_out, dispatch_uid="realtime sign-outs")


def _changed(
    sender: type[Model], using: str, update_fields: frozenset[str] | None = None, **_: Any
) -> None:
    if update_fields is not None and set(update_fields) == {"last_login"}:  # which logins write
        return
    _note(_names(sender), using)


def _related(sender: type[Model], action: str, using: str, **_: Any) -> None:
    if action.startswith("post_"):
        _note(_names(sender), using)


def _signed_out(sender: object, user: Model | None, **_: Any) -> None:
    if user is not None:
        AccessChange.objects.create(user=str(user.pk))


def _note(models: Iterable[str], using: str) -> None:
    """Note a change for everybody: what one may do may depend on any object, even another user."""
    for model in models:
        change = AccessChange(model=model)
        if using == router.db_for_write(AccessChange):
            change.save(using=using)  # in the change's own transaction: both are seen, or neither
        else:
            transaction.on_commit(change.save, using=using)
