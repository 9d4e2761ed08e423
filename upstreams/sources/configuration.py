"""Data sources as one immutable value: the part ``data sources`` of every snapshot."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from upstreams.sources import mapping

logger = logging.getLogger(__name__)

PART: Final = "data sources"


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """A source as it is polled; the fields are those of the model.

    Attributes:
        mappings: Channels with their pointers.
        poll_asked_at: When somebody wanted a poll at once; not a change of the source itself.
    """

    id: int
    name: str
    upstream_id: int
    path: str
    interval_seconds: float
    stale_after_seconds: float
    mappings: tuple[tuple[str, str], ...]
    jitter_seconds: float = 0.0
    only_while_watched: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    poll_asked_at: datetime | None = field(default=None, compare=False)


NOTHING: Final[Mapping[int, SourceConfig]] = {}


def of(parts: Mapping[str, Any]) -> Mapping[int, SourceConfig]:
    """Return the sources in a snapshot's parts, by their ids."""
    found: Mapping[int, SourceConfig] = parts.get(PART, NOTHING)
    return found


def load() -> Mapping[int, SourceConfig]:
    """Read those that are enabled and say where their values go.

    What was written past the model and cannot be used is logged and left out.

    Raises:
        django.db.Error: The database did not answer.
    """
    from upstreams.models import DataSource  # after the apps: this module registers a part

    sources = {}
    for row in DataSource.objects.filter(is_enabled=True).prefetch_related("mappings"):
        try:
            source = of_row(row)
        except (ValueError, TypeError, AttributeError) as error:
            logger.error("data source %s cannot be used: %s", row.name, error)
            continue
        if source.mappings:
            sources[source.id] = source
    return sources


def of_row(row: Any) -> SourceConfig:
    """Return the configuration in a row.

    Raises:
        ValueError, TypeError, AttributeError: It was written past the model.
    """
    mappings = tuple((each.channel, each.pointer) for each in row.mappings.all())
    for _, pointer in mappings:
        mapping.tokens(pointer)
    interval_seconds = float(row.interval_seconds)
    if not interval_seconds > 0:
        raise ValueError("the interval is not above 0")
    return SourceConfig(
        id=row.pk,
        name=row.name,
        upstream_id=row.upstream_id,
        path=row.path,
        interval_seconds=interval_seconds,
        stale_after_seconds=row.effective_stale_after_seconds,
        mappings=mappings,
        jitter_seconds=float(row.jitter_seconds),
        only_while_watched=row.only_while_watched,
        headers={name.lower(): value for name, value in row.headers.items()},
        poll_asked_at=row.poll_asked_at,
    )
