"""``make run`` as a person uses it: what it needs, what it says, and that it ends."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime.server.embedded import EmbeddedValkey
from tests.support import processes
from tests.support.servers import REPOSITORY, bare_environment

pytestmark = pytest.mark.end_to_end

# make sets these for its own children; a make of ours shall be like a first one.
OF_MAKE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}


def environment(folder: Path, **variables: str) -> dict[str, str]:
    system = {k: v for k, v in bare_environment(folder).items() if k not in OF_MAKE}
    return {**system, **variables}


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """``make run`` in a process group of its own, as a terminal would have it; ready."""
    if not (REPOSITORY / ".venv" / "bin" / "python").exists():
        pytest.fail("there is no .venv: run the tests with `make test`")
    log_path = tmp_path / "make.log"
    process = processes.spawn(
        ["make", "run"],
        log_path=log_path,
        cwd=REPOSITORY,
        env=environment(tmp_path, PORT=str(processes.free_port())),
    )
    try:
        processes.wait_until(
            lambda: "Ctrl-C ends it" in log_path.read_text(),
            timeout_seconds=60,  # it may have to look at every package first
            what=lambda: processes.tail(log_path),
        )
        yield process, log_path
    finally:
        processes.end(process)
        if pid := EmbeddedValkey(tmp_path).process.pid():
            os.kill(pid, signal.SIGKILL)


def assert_all_is_over(process: subprocess.Popen[bytes], log_path: Path) -> None:
    process.wait(15)
    with pytest.raises(ProcessLookupError):  # nobody is left in the group
        os.killpg(process.pid, 0)
    assert EmbeddedValkey(log_path.parent).process.pid() is None
    assert "ended in" in log_path.read_text()


def test_ctrl_c_ends_everything(make_run):
    process, log_path = make_run

    os.killpg(process.pid, signal.SIGINT)

    assert_all_is_over(process, log_path)


def test_a_signal_to_make_alone_reaches_the_server(make_run):
    process, log_path = make_run

    process.terminate()

    assert_all_is_over(process, log_path)


def test_a_signal_to_make_and_the_server_is_one_signal(make_run):
    process, log_path = make_run

    os.killpg(process.pid, signal.SIGTERM)

    assert_all_is_over(process, log_path)


@pytest.fixture
def empty_checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing has been installed."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("says", ["3.9.2", ""])
def test_a_wrong_python_is_one_line(empty_checkout, says):
    python = empty_checkout / "old-python"
    # It may know its version, and fails when it is asked whether that is new enough.
    python.write_text(
        f'#!/bin/sh\ncase "$2" in *platform*) [ "{says}" ] && echo "{says}" ;; *) exit 1 ;; esac\n'
    )
    python.chmod(0o755)

    done = subprocess.run(
        ["make", "--silent", "run"],
        cwd=empty_checkout,
        env=environment(empty_checkout, PYTHON=str(python)),
        capture_output=True,
        text=True,
    )

    ours = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert len(ours) == 1
    assert f"needs Python 3.11 or newer, and {python} is {says or 'none that runs'}" in ours[0]
    assert not (empty_checkout / ".venv").exists()
