"""The services of docker-compose.yml as processes of this machine, without a container engine.

Commands, variables, health checks, the order of starting and the configuration of nginx, Redis and
PostgreSQL are those of the files; ``place.py`` puts them into terms of this machine. Started by
root, each service is the user that compose says, so that what it may read is tested as well.
"""

import json
import os
import pwd
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.compose import definition, postgres_image
from tests.compose.place import Place
from tests.support import processes
from tests.support.postgres import binaries
from tests.support.servers import REPOSITORY

HEALTHY_SECONDS = 40
JOB_SECONDS = 60

# What images say in STOPSIGNAL, unless compose says otherwise.
_STOP_SIGNALS = {"nginx": "SIGQUIT", "postgres": "SIGINT"}


class Container:
    """One service: a process with what compose and the image give it.

    Args:
        name: The service.
        says: What compose says of it.
        place: Its view of this machine.
        log_path: Takes what it prints.
        variables: Those of the file ``.env``.
    """

    def __init__(
        self,
        name: str,
        says: Mapping[str, Any],
        place: Place,
        log_path: Path,
        variables: Mapping[str, str],
    ) -> None:
        self.name = name
        self.says = says
        self.place = place
        self.log_path = log_path
        self.process: subprocess.Popen[bytes] | None = None
        self._image = definition.image() if says["image"] == "heliograph:local" else None
        self._variables = dict(variables) if "env_file" in says else {}

    @property
    def arguments(self) -> list[str]:
        """What runs, as compose or else the image says."""
        command = self.says.get("command", self._image.command if self._image else [])
        return [self.place.here(word) for word in [*self.says.get("entrypoint", []), *command]]

    @property
    def environment(self) -> dict[str, str]:
        """All that its process is told; nothing of the tests' own environment."""
        given = dict(self._image.environment) if self._image else {}
        given |= self._variables | self.says.get("environment", {})
        folders = [Path(sys.prefix, "bin"), binaries(), "/usr/local/bin", "/usr/bin", "/bin"]
        path = ":".join(map(str, [*folders, "/usr/sbin"]))
        return {"PATH": path, **{name: self.place.here(each) for name, each in given.items()}}

    @property
    def options(self) -> dict[str, Any]:
        """What ``Popen`` needs to run something in it."""
        folder = self.place.path(self._image.folder) if self._image else self.place.folder
        return {"cwd": folder, "env": self.environment, **self.identity}

    @property
    def identity(self) -> dict[str, Any]:
        """Who its processes are, where that can be chosen."""
        if os.geteuid() != 0:
            return {}
        groups = [int(group) for group in self.says.get("group_add", [])]
        user, group = map(int, self.says["user"].split(":"))
        if self.says["image"].startswith("postgres:"):
            # initdb wants a user with a name, and this machine's has another number.
            known = pwd.getpwnam("postgres")
            user, group = known.pw_uid, known.pw_gid
        elif self._image and not _is_open_to_all(Path(sys.base_prefix), REPOSITORY):
            user = 0  # with a Python of root's own; what is shared by the group still is
        return {"user": user, "group": group, "extra_groups": groups}

    def start(self) -> None:
        """Start it; it is healthy later."""
        self.log_path.touch()
        if identity := self.identity:
            # An engine hands the output to the container's user, too.
            shutil.chown(self.log_path, identity["user"])
        self.process = processes.spawn(self.arguments, log_path=self.log_path, **self.options)

    def run(self) -> str:
        """Run a job to its end, and return what it printed."""
        before = self.log()
        self.start()
        assert self.process is not None
        code = self.process.wait(JOB_SECONDS)
        assert code == 0, f"{self.name} ended with {code}:\n{self.log()}"
        return self.log()[len(before) :]

    def is_healthy(self) -> bool:
        """Ask its health check once."""
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended by itself:\n{processes.tail(self.log_path)}")
        test = self.says.get("healthcheck", {}).get("test") or self._image.health
        kind, *words = [self.place.here(word) for word in test]
        command = words if kind == "CMD" else ["sh", "-c", *words]
        done = subprocess.run(command, capture_output=True, timeout=10, **self.options)
        return done.returncode == 0

    def wait_healthy(self) -> None:
        """Return once its health check is content."""
        processes.wait_until(
            self.is_healthy,
            timeout_seconds=HEALTHY_SECONDS,
            what=lambda: f"{self.name} is not healthy:\n{processes.tail(self.log_path)}",
        )

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """End it as ``docker compose stop`` does, within its grace; return its exit code."""
        assert self.process is not None
        image, _, _ = self.says["image"].partition(":")
        name = self.says.get("stop_signal", _STOP_SIGNALS.get(image, "SIGTERM"))
        self.process.send_signal(signal.Signals[name])
        return self.process.wait(float(self.says["stop_grace_period"].removesuffix("s")))

    def log(self) -> str:
        """Return all it has printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def lines(self, **fields: Any) -> list[dict[str, Any]]:
        """Return the lines of its log that are JSON and say this."""
        found = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [each for each in found if fields.items() <= each.items()]

    def wait_for_line(self, **fields: Any) -> None:
        """Return once its log says this."""
        processes.wait_until(
            lambda: self.lines(**fields),
            timeout_seconds=5,
            what=lambda: processes.tail(self.log_path),
        )


class Stack:
    """All services, in a folder of their own.

    Attributes:
        network: The first three numbers of their addresses.
        containers: The services by name.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="heliograph-compose-"))
        self.folder.chmod(0o755)  # the services are different users
        (self.folder / "logs").mkdir()
        self.network = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
        self.variables = {
            "FRONT_NET": self.network,
            "ALLOWED_HOSTS": f"localhost {self.network}.2 {self.network}.3",
            **(variables or {}),
        }
        self._image = definition.image()
        self._build()
        says = definition.services(definition.COMPOSE_FILE, variables=self.variables)
        addresses = dict(self._addresses(says))
        self.containers = {
            name: self._container(name, each, addresses) for name, each in says.items()
        }

    def __getitem__(self, name: str) -> Container:
        return self.containers[name]

    @property
    def url(self) -> str:
        """Where a client from outside comes in."""
        return f"http://{self.network}.2:8080"

    def up(self) -> None:
        """Start everything, each when what it depends on is as compose wants it."""
        for container in self._in_order():
            for name, wanted in container.says.get("depends_on", {}).items():
                if wanted["condition"] == "service_healthy":
                    self[name].wait_healthy()
            if container.name == "postgres":
                container.says = postgres_image.set_up(container)
            if container.says["restart"] == "no":
                container.run()
            else:
                container.start()
        self["nginx"].wait_healthy()

    def logs(self) -> dict[str, str]:
        """Return what each service has printed."""
        return {name: container.log() for name, container in self.containers.items()}

    def close(self) -> None:
        """End everything in whatever state it is, and drop the folder."""
        for container in reversed(list(self._in_order())):
            processes.end(container.process, timeout_seconds=8)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _in_order(self) -> Iterator[Container]:
        waiting, done = dict(self.containers), set()
        while waiting:
            ready = [n for n, c in waiting.items() if set(c.says.get("depends_on", {})) <= done]
            for name in ready:
                yield waiting.pop(name)
            done |= set(ready)

    def _addresses(self, says: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        others = iter(range(21, 100))
        for name, service in says.items():
            networks = service.get("networks", {})
            front = networks.get("front") if isinstance(networks, dict) else None
            yield name, front["ipv4_address"] if front else f"{self.network}.{next(others)}"

    def _build(self) -> None:
        """Make what the Dockerfile makes: its files, and the steps that run our own code."""
        target = self.folder / "image"
        target.mkdir()
        ignored = shutil.ignore_patterns("__pycache__")
        for source, name in self._image.copies:
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, target / name, ignore=ignored)
            else:
                shutil.copy(REPOSITORY / source, target / name)
        place = Place("127.0.0.1", {}, self.folder / "build")
        place.has("/tmp", self.folder / "build")
        (self.folder / "build").mkdir()
        path = f"{sys.prefix}/bin:{os.environ['PATH']}"
        for step in self._image.steps:
            if "manage.py" in step:
                subprocess.run(
                    ["sh", "-ec", place.here(step)], cwd=target, env={"PATH": path}, check=True
                )

    def _container(
        self, name: str, says: Mapping[str, Any], addresses: Mapping[str, str]
    ) -> Container:
        place = Place(addresses[name], addresses, self.folder / "containers" / name)
        log_path = self.folder / "logs" / f"{name}.log"
        container = Container(name, says, place, log_path, self.variables)
        self.prepare(container)
        return container

    def prepare(self, container: Container) -> None:
        """Make the folders that a container has."""
        place, says = container.place, container.says
        place.folder.mkdir(parents=True)
        place.has(self._image.folder, self.folder / "image")
        for tmpfs in says.get("tmpfs", []):
            path, _, _ = tmpfs.partition(":")
            place.has(path, place.folder / "tmpfs" / path.strip("/"))
            place.path(path).mkdir(parents=True)
            place.path(path).chmod(0o1777)
        for volume in says.get("volumes", []):
            self._mount(container, *volume.split(":"))
        place.translate_mounts()

    def _mount(self, container: Container, source: str, path: str, mode: str = "rw") -> None:
        if source.startswith("."):
            container.place.mount(source, path)
            return
        if source.startswith("/"):
            container.place.has(path, Path(source))
            return
        volume = self.folder / "volumes" / source
        container.place.has(path, volume)
        if not volume.exists():
            volume.mkdir(parents=True, mode=0o750)
        if mode == "rw" and (identity := container.identity):
            # As a new volume gets the owner that its folder has in the image.
            shutil.chown(volume, identity["user"], identity["group"])


def _is_open_to_all(*folders: Path) -> bool:
    """Tell whether every user may enter these folders."""
    found = {parent for folder in folders for parent in (folder, *folder.parents)}
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in found)
