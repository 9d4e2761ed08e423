"""Read what ``serve --dev`` prints for a person, and do as it says."""

import re
import subprocess

from tests.support import processes
from tests.support.servers import REPOSITORY, Server

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def rows(server: Server) -> dict[str, str]:
    """Return the newest banner's rows by name, once it is printed."""
    processes.wait_until(
        lambda: "Ctrl-C ends it" in server.log(), timeout_seconds=5, what=server.log_tail
    )
    text = _COLOURS.sub("", server.log()).rpartition("Heliograph is ready")[2]
    found = re.findall(r"^  (Page|Admin|Sign in|Publish) +(.*)$", text, re.MULTILINE)
    return dict(found)


def login(server: Server) -> tuple[str, str]:
    """Return the name and the password that are shown once."""
    name, _, password = rows(server)["Sign in"].split()[:3]
    return name, password


def run_publish_line(server: Server) -> str:
    """Run the line as a person pastes it into a shell at the checkout; return what it prints."""
    line = rows(server)["Publish"]
    process = subprocess.run(["sh", "-c", line], cwd=REPOSITORY, capture_output=True, timeout=10)
    return process.stdout.decode()
