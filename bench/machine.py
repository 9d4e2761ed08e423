"""What a results file says of where it was made: neither names of hosts nor paths."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.peers.children import ROOT, python, run

PACKAGES = ("Django", "channels", "daphne", "autobahn", "Twisted", "redis", "hiredis", "msgspec")


def facts(*, server_core: int, driver_core: int) -> dict[str, object]:
    floor = python("-m", "bench.floor", str(server_core), str(driver_core))
    return {
        "cpu": _first(r"^model name\s*:\s*(.+)$", "/proc/cpuinfo") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": int(_first(r"^MemTotal:\s+(\d+) kB$", "/proc/meminfo") or 0) * 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "load_at_start": round(os.getloadavg()[0], 2),
        "send_floor_us": float(run(floor)),
    }


def commit() -> dict[str, object]:
    """Return which commit this is, and whether the files differ from it."""
    found = _git("rev-parse", "HEAD")
    return {"id": found or "unknown", "is_changed": bool(_git("status", "--porcelain", "-uno"))}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _first(pattern: str, path: str) -> str:
    match = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    return match[1].strip() if match else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
