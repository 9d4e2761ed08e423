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
        """Have it end in order, and begin nothing more; the second time, at once."""
        number = signal.SIGKILL if self._is_ended else signal.SIGINT
        self._is_ended = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def main() -> int:
    """Run everything; return 0 if every test has passed."""
    lanes = [
        Lane(
            Part("in this process", "not (end_to_end or browser or faults)", ("--cov",)),
            Part("faults", "faults"),
            is_shown=True,
        ),
        Lane(Part("with servers", "(end_to_end or browser) and not faults"), is_shown=False),
    ]

    def interrupt(number: int, frame: FrameType | None) -> None:
        for lane in lanes:
            lane.interrupt()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    for lane in lanes:
        lane.thread.start()
    for lane in lanes:
        lane.thread.join()
    for part in lanes[1].parts:
        print("".join(part.output), end="")
    parts = [part for lane in lanes for part in lane.parts]
    print()
    for part in parts:
        print(f"{part.name}: {part.outcome}")
    return 0 if all(part.code == 0 for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
