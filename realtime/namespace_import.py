"""Check the namespaces of a configuration, and store them: all of them, or nothing.

Called by ``manage.py namespaces import``. Knows nothing of files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction

from realtime.centrifugo_config import Reading, ReadNamespace, place
from realtime.models import Namespace


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one namespace.

    Attributes:
        act: ``created``, ``changed``, ``unchanged`` or ``deleted``.
        options: Those that are new, each with its value before and after.
    """

    act: str
    namespace: str
    options: Mapping[str, tuple[object, object]]


def problems(reading: Reading) -> list[str]:
    """Return all that has to change in the file, a sentence for each.

    What could not be read comes first. Of the rest, what is wrong with a value or does not go
    together, as the admin would tell it.
    """
    found = list(reading.problems)
    for read in reading.namespaces:
        found += [
            f"{where}: {sentence}"
            for where, sentence in _refused(read)
            # A name or value that could not be read is told already.
            if not any(told.startswith(f"{where}: ") for told in reading.problems)
        ]
    return found


def apply(
    read: Sequence[ReadNamespace], *, prune: bool = False, dry_run: bool = False
) -> list[Change]:
    """Make the stored namespaces those of a configuration, in one transaction.

    Args:
        read: Namespaces with all their options, of a reading without ``problems``.
        prune: Delete the namespaces that are not among them.
        dry_run: Tell the changes and write nothing.
    Raises:
        django.db.Error: The database did not answer; nothing is changed.
    """
    with transaction.atomic():
        rows = {row.name: row for row in Namespace.objects.select_for_update()}
        targets = [(each, _row(rows, each.name)) for each in read]
        changes = [_set(row, each.options) for each, row in targets]
        if prune:
            changes += [Change("deleted", name, {}) for name in sorted(rows)]
        if not dry_run:
            _write([row for _, row in targets], changes)
            if prune:
                Namespace.objects.filter(pk__in=[row.pk for row in rows.values()]).delete()
    return changes


def _row(rows: dict[str, Namespace], name: str) -> Namespace:
    return rows.pop(name) if name in rows else Namespace(name=name)


def _set(row: Namespace, options: Mapping[str, object]) -> Change:
    before = {name: getattr(row, name) for name in options}
    for name, value in options.items():
        setattr(row, name, value)
    new = {name: (before[name], value) for name, value in options.items() if before[name] != value}
    act = "created" if row.pk is None else "changed" if new else "unchanged"
    return Change(act, row.name, new)


def _refused(read: ReadNamespace) -> Iterator[tuple[str, str]]:
    """Yield what could not be stored: where it stands, and why."""
    try:
        # That a name stands once is known: rows are found by it.
        Namespace(name=read.name, **read.options).full_clean(validate_unique=False)
    except ValidationError as error:
        for name, sentences in error.message_dict.items():
            where = read.path if name == NON_FIELD_ERRORS else place(read.path, read.name, name)
            yield from ((where, sentence) for sentence in sentences)


def _write(rows: Sequence[Namespace], changes: Sequence[Change]) -> None:
    """Save what is new. What is unchanged is left alone, so that no instance reads it again."""
    for row, change in zip(rows, changes, strict=False):
        if change.act != "unchanged":
            row.save()
