"""One server whose costs are counted, and one whose system calls are; both on this run's Valkey."""

import json
import re
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from realtime.broker import acts
from realtime.broker.acts import Retention
from realtime.protocol import codec
from realtime.protocol.messages import Publication
from realtime.redis_client import SyncRedisServers
from tests.counts.seats import Seats
from tests.support import processes
from tests.support.servers import REPOSITORY, Deployment, Filled, Server, environment

_CALL = re.compile(r"^\d+ +(\w+)\(")


class MeasuredServer(Server):
    """The server of ``measured_server``.

    Args:
        prefix: Words that the command begins with.
    """

    def __init__(self, *arguments: Any, prefix: tuple[str, ...] = ()) -> None:
        super().__init__(*arguments)
        self._prefix = prefix

    def start(self) -> None:
        program = [sys.executable, "-m", "tests.counts.measured_server", str(self.port)]
        self.process = processes.spawn(
            [*self._prefix, *program],
            log_path=self.log_path,
            cwd=REPOSITORY,
            env=self.variables,
        )

    def figures(self) -> dict[str, int]:
        """Return what it holds."""
        return dict(self._ask("/figures"))

    def peak_bytes(self) -> int:
        """Return the most that it held since ``figures``."""
        return int(self._ask("/figures/peak")["bytes"])

    def thread_turns(self) -> dict[int, int]:
        """Return how often each thread but the first was given a processor.

        And but the one that watches the loop, which looks at it whatever happens.
        """
        assert self.process is not None
        watching = [int(each) for each, name in self._ask("/threads").items() if name == "lag"]
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return {
            int(task.name): int((task / "schedstat").read_text().split()[2])
            for task in tasks
            if int(task.name) not in (self.process.pid, *watching)
        }

    def _ask(self, path: str) -> Any:
        status, body = self.get(path)
        assert status == 200, f"{body}\n{self.log_tail()}"
        return json.loads(body)


class TracedServer(MeasuredServer):
    """A server each of whose system calls is written down by strace."""

    def __init__(self, name: str, folder: Path, variables: dict[str, str]) -> None:
        self._trace_path = folder / "trace"
        # -D: so that the process which is started is the server itself.
        strace = ("strace", "-D", "-f", "-qq", "-e", "signal=none", "-o", str(self._trace_path))
        super().__init__(name, folder, variables, prefix=strace)

    def calls(self) -> Counter[str]:
        """Return how often each system call was made until now."""
        lines = self._trace_path.read_text(errors="replace").splitlines()
        return Counter(found[1] for line in lines if (found := _CALL.match(line)))


@pytest.fixture(scope="module")
def start(
    tmp_path_factory: pytest.TempPathFactory, database: Filled, redis_url: str
) -> Iterator[Callable[..., Any]]:
    """Return a way to start a server of a class; it must end in order after the tests."""
    folder = tmp_path_factory.mktemp("counts")
    deployment = Deployment(folder, database=database, redis_url=redis_url)

    def start(kind: type[MeasuredServer]) -> MeasuredServer:
        # No pings: a slow machine would have them come between what is counted.
        variables = {**deployment.variables, "REALTIME_PING_INTERVAL_SECONDS": "3600"}
        name = f"{kind.__name__}-{len(deployment.servers)}"
        server = kind(name, folder, environment(folder, redis_url, variables))
        deployment.servers.append(server)
        server.start()
        server.wait_ready()
        return server

    try:
        yield start
        for server in deployment.servers:
            server.terminate()
    finally:
        deployment.close()


@pytest.fixture(scope="module")
def server(start: Callable[..., Any]) -> MeasuredServer:
    return start(MeasuredServer)


@pytest.fixture(scope="module")
def traced(start: Callable[..., Any]) -> TracedServer:
    return start(TracedServer)


@pytest.fixture
def channel() -> str:
    """Return a channel of this test alone, with history, positions and recovery."""
    return f"short:{uuid.uuid4().hex[:10]}"


@pytest.fixture
def publish(channel: str) -> Iterator[Callable[[int], None]]:
    """Return a way to publish 100 bytes, past the server that is counted."""
    servers = SyncRedisServers()

    def publish(number: int) -> None:
        content = Raw(json.dumps({"n": number, "pad": "x" * 80}).encode())
        body = codec.encode_publication(Publication(data=content))
        servers.run(acts.publish(channel, body, retention=Retention(5, 600)))

    yield publish
    servers.close()


@pytest.fixture
def seats(channel: str) -> Iterator[Callable[[MeasuredServer], Seats]]:
    """Return a way to have connections to a server; they end with the test."""
    made: list[Seats] = []

    def seats(server: MeasuredServer) -> Seats:
        made.append(Seats(server.port, channel))
        return made[-1]

    yield seats
    for each in made:
        each.__exit__(None, None, None)
