"""A PostgreSQL of our own, to be stopped, killed and asked for databases.

The real server, from the binaries of the machine. It listens on loopback with a password of its
own, as an unprivileged user, since PostgreSQL refuses to run as root; nothing it holds outlives
the tests, so it never waits for a disk.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.support import processes

# Debian keeps them out of PATH, one folder for each major version.
_DEBIAN_FOLDERS = Path("/usr/lib/postgresql")
_PLAIN_USERS = ("postgres", "nobody")
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # A container's /dev/shm may be too small.
    "dynamic_shared_memory_type": "mmap",
}


def binaries() -> Path:
    """Return the folder of ``initdb`` and ``postgres``, the newest version's.

    Raises:
        FileNotFoundError: The machine has none.
    """
    for folder in sorted(_DEBIAN_FOLDERS.glob("[0-9]*/bin"), key=_version, reverse=True):
        if (folder / "initdb").exists():
            return folder
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise FileNotFoundError(
        "PostgreSQL's initdb is neither in /usr/lib/postgresql/*/bin nor on PATH: "
        "install its server (Debian: apt install postgresql)"
    )


def _version(folder: Path) -> float:
    return float(folder.parent.name)


class Postgres:
    """One server in a folder of its own under the system's temporary one.

    Attributes:
        port: TCP port on loopback; it keeps it over restarts.
    """

    def __init__(self) -> None:
        self._binaries = binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="heliograph-postgres-"))
        self.port = processes.free_port()
        self.log_path = self.folder / "postgres.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._password = secrets.token_urlsafe(16)
        self._as_user = _plain_user()

    def url(self, database: str, *, port: int | None = None) -> str:
        """Return the address of a database as ``DATABASE_URL`` takes it."""
        place = f"127.0.0.1:{port or self.port}"
        return f"postgresql://heliograph:{self._password}@{place}/{database}"

    def start(self) -> None:
        """Start, or start again with the data and the port it had.

        Raises:
            TimeoutError: It took no connection within 20 s; the message ends with its log.
        """
        if not (self.folder / "data").exists():
            self._make()
        options = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        self.process = processes.spawn(
            [str(self._binaries / "postgres"), "-D", "data", "-p", str(self.port), *options],
            log_path=self.log_path,
            cwd=self.folder,
            **self._as_user,
        )
        processes.wait_until(
            self.answers,
            timeout_seconds=20,
            what=lambda: f"PostgreSQL did not start:\n{processes.tail(self.log_path)}",
        )

    def answers(self) -> bool:
        """Tell whether it takes connections now."""
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def create(self, name: str, *, template: str = "template1") -> str:
        """Make a database, a copy of ``template`` to which nobody is connected; return its URL."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def stop(self) -> None:
        """Shut it down; the connections that are open are cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash would: it recovers from its log when it starts again."""
        self._end(signal.SIGQUIT)

    def close(self) -> None:
        """End it in whatever state it is, and drop its folder."""
        if self.process is not None and self.process.poll() is None:
            self._end(signal.SIGQUIT)
        processes.end(self.process)
        self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"PostgreSQL is not running:\n{processes.tail(self.log_path)}")
        self.process.send_signal(how)
        self.process.wait(20)

    def _make(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self._password)
        if user := self._as_user.get("user"):
            for path in (self.folder, password_file):
                shutil.chown(path, user=user)
        made = subprocess.run(
            [
                *(str(self._binaries / "initdb"), "-D", "data", "--username=heliograph"),
                *("--auth=scram-sha-256", f"--pwfile={password_file}"),
                *("--encoding=UTF8", "--no-locale", "--no-sync"),
            ],
            cwd=self.folder,
            capture_output=True,
            timeout=60,
            **self._as_user,
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stderr.decode(errors='replace')}")


def _plain_user() -> dict[str, Any]:
    """Return what lets a process of root run as somebody else, nothing for other users."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in _PLAIN_USERS:
        if name in known:
            group = pwd.getpwnam(name).pw_gid
            return {"user": name, "group": group, "extra_groups": []}
    raise RuntimeError(f"PostgreSQL does not run as root, and there is none of {_PLAIN_USERS}")
