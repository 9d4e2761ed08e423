"""What the kernel says of processes, and arithmetic on many numbers."""

import math
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)
_CPUCLOCK_SCHED = 2


def pss_bytes(pids: Iterable[int]) -> int:
    """Return the proportional set size of processes: shared pages are counted by their part."""
    return sum(_pss(pid) for pid in pids)


def _pss(pid: int) -> int:
    match = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    if match is None:
        raise OSError(f"/proc/{pid}/smaps_rollup has no Pss")
    return int(match[1]) * 1024


def threads(pids: Iterable[int]) -> set[int]:
    """Return the ids of all threads of processes."""
    return {int(path.name) for pid in pids for path in Path(f"/proc/{pid}/task").iterdir()}


def cpu_ns(pids: Iterable[int]) -> int:
    """Return the CPU time, user and system, of processes with all their threads, ended ones too.

    The clock of clock_getcpuclockid(3): as fine as the scheduler's, where /proc/PID/stat counts
    hundredths of a second, and /proc/PID/schedstat one thread.
    """
    return sum(time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED) for pid in pids)


class Stopwatch:
    """Wall time and CPU time of processes, and of this one, since it was made."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._wall_ns = time.monotonic_ns()
        self._cpu_ns = cpu_ns(pids)
        self._own_ns = time.process_time_ns()

    @property
    def seconds(self) -> float:
        return (time.monotonic_ns() - self._wall_ns) / 1e9

    @property
    def cpu_seconds(self) -> float:
        return (cpu_ns(self._pids) - self._cpu_ns) / 1e9

    @property
    def cpu_share(self) -> float:
        """Part of one core that the processes took."""
        return self.cpu_seconds / self.seconds

    @property
    def own_share(self) -> float:
        """Part of one core that the driver itself took."""
        return (time.process_time_ns() - self._own_ns) / 1e9 / self.seconds


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that ``part`` (0..1) of the values do not exceed; the nearest rank."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def milliseconds(values_ns: Sequence[int], part: float) -> float:
    """Return a percentile of nanoseconds in milliseconds."""
    return percentile(values_ns, part) / 1e6
