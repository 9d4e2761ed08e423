"""Files that only their owner reads, such as keys and secrets.

Called by whoever makes one up on a first run.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_once(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file with mode 600, or another, unless it is there already.

    Any number of processes may do so at once: the first one's text stays, and nobody ever reads
    half of it, because a link to a finished file appears whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with _draft(path, text, mode) as draft, suppress(FileExistsError):
        os.link(draft, path)


def write_anew(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file in place of the one that is there; nobody ever reads half of it.

    Raises:
        OSError: It cannot be written.
    """
    with _draft(path, text, mode) as draft:
        draft.rename(path)


@contextmanager
def _draft(path: Path, text: str, mode: int) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)  # whatever the umask is
            file.write(text)
        yield draft
    finally:
        draft.unlink(missing_ok=True)
