"""Run all tests in two lanes, side by side: ``python -m tests``, as ``make test`` does.

Tests with servers of their own mostly wait for them, and coverage does not see into these. So what
runs in the tests' own process is measured in one lane, while the other waits. The first lane is
shown as it goes, the other one after it; the end says how each part went.
"""

import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from types import FrameType

_APART = "faults or browser"
_END_SECONDS = 30  # for what was interrupted to end its servers


@dataclass
class Part:
    """One run of pytest, of the tests that a marker expression selects. Every test is in one."""

    name: str
    markers: str
    options: tuple[str, ...] = ()
    output: list[str] = field(default_factory=list)
    code: int | None = None

    @property
    def outcome(self) -> str:
        """How it went, in pytest's own words where there are some."""
        said = next((line.strip("= \n") for line in reversed(self.output) if line.strip()), "")
        return said if self.code == 0 else f"exit code {self.code}: {said}"


class Lane:
    """Parts that run one after the other."""

    def __init__(self, *parts: Part, is_shown: bool) -> None:
        self.parts = parts
        self._is_shown = is_shown
        self._process: subprocess.Popen[str] | None = None
        self._is_ended = False
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for part in self.parts:
            if self._is_ended:
                return
            command = [sys.executable, "-X", "dev", "-m", "pytest", "-m", part.markers]
            # In a session of its own: Ctrl-C reaches it through interrupt() alone, and once.
            self._process = subprocess.Popen(
                [*command, *part.options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            assert self._process.stdout is not None
            for line in self._process.stdout:
                part.output.append(line)
                if self._is_shown:
                    print(line, end="", flush=True)
            part.code = self._process.wait()

    def interrupt(self) -> None:
        """Have it end what it has begun, and begin nothing more."""
        self._is_ended = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Wait until it has ended, with force in the end."""
        self.thread.join(_END_SECONDS)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self.thread.join()


def main() -> int:
    """Run everything; return 0 if every test has passed."""
    lanes = [
        Lane(
            Part("in this process", f"not (end_to_end or {_APART})", ("--cov",)),
            Part("faults and browser", _APART),
            is_shown=True,
        ),
        Lane(Part("with servers", f"end_to_end and not ({_APART})"), is_shown=False),
    ]

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    for lane in lanes:
        lane.thread.start()
    try:
        for lane in lanes:
            lane.thread.join()
    except KeyboardInterrupt:
        for lane in lanes:
            lane.interrupt()
        for lane in lanes:
            lane.end()
    for part in lanes[1].parts:
        print("".join(part.output), end="")
    parts = [part for lane in lanes for part in lane.parts]
    print()
    for part in parts:
        print(f"{part.name}: {part.outcome}")
    return 0 if all(part.code == 0 for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
