"""How a change of what is configured is noticed."""

from django.db import models


class SnapshotVersion(models.Model):
    """One row, whose ``number`` differs after every change of what a snapshot holds.

    Written by database triggers (``apps.py``) and by nothing else.
    """

    number = models.BigIntegerField()

    def __str__(self) -> str:
        return str(self.number)
