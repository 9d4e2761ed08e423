"""The ``realtime`` application: what is connected once all models are known; nothing is started."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_migrate

from realtime import checks  # noqa: F401  # importing it registers the system checks


class RealtimeConfig(AppConfig):
    """The real-time engine."""

    name = "realtime"
    label = "realtime"
    verbose_name = "Real time"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have triggers made whenever the tables may have been, and find the handlers."""
        # Here, because they need the models.
        from realtime import access_triggers, answering, decision_signals

        post_migrate.connect(make_triggers, dispatch_uid="realtime triggers")
        pre_migrate.connect(
            access_triggers.drop_access_triggers,
            sender=self,
            dispatch_uid="realtime access triggers",
        )
        post_migrate.connect(
            access_triggers.make_access_triggers,
            sender=self,
            dispatch_uid="realtime access triggers",
        )
        decision_signals.watch_sign_outs()
        answering.discover()


def make_triggers(sender: AppConfig, *, using: str, **_: Any) -> None:
    """Make the triggers of an app's tables anew; see ``triggers.make_triggers``."""
    from realtime import triggers

    triggers.make_triggers(sender, using=using)
