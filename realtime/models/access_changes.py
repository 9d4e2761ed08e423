"""How a change of what somebody may do is noticed."""

from django.db import models
from django.db.models.functions import Now


class AccessChange(models.Model):
    """What was decided for a user, or for everybody, may not be so any more.

    Written by the triggers of ``access_triggers.py`` and by ``forget_decisions``; read and pruned
    by every instance (``change_log.py``).
    """

    user = models.TextField(blank=True, help_text="Primary key of the user; empty is everybody.")
    model = models.TextField(
        blank=True, help_text="Only what rules decided that watch this model; empty is all rules."
    )
    at = models.DateTimeField(db_default=Now(), db_index=True)

    def __str__(self) -> str:
        return f"{self.user or 'everybody'} {self.model}".strip()
