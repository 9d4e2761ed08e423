"""What the entry point of PostgreSQL's image does, a shell script that is in the image alone.

Of the repository it has the variables, and a folder of scripts that it runs once, with the password
in a variable. Source: docker-entrypoint.sh of the official image.
"""

import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.compose.containers import Container


def set_up(container: "Container") -> dict[str, Any]:
    """Do what comes before the first start; return what compose says, with what the image adds."""
    data = container.place.path("/var/lib/postgresql/data")
    if not (data / "PG_VERSION").exists():
        _make(container, data)
        _run_scripts(container, data)
    # What the image's own configuration says: everywhere, and where its folders are.
    own = ["-D", "/var/lib/postgresql/data", "-k", "/run/postgresql", "-h", "0.0.0.0"]
    return {**container.says, "command": [*container.says["command"], *own]}


def _make(container: "Container", data: Path) -> None:
    variables = container.environment
    password_file = variables["POSTGRES_PASSWORD_FILE"]
    arguments = shlex.split(variables["POSTGRES_INITDB_ARGS"])
    initdb = ["initdb", "-D", str(data), "-U", "postgres", f"--pwfile={password_file}"]
    _run(container, [*initdb, "--auth-host=scram-sha-256", *arguments])
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all all scram-sha-256\n")


def _run_scripts(container: "Container", data: Path) -> None:
    """Run them as the superuser in the new database, on a server that listens to nobody else."""
    place, variables = container.place, container.environment
    sockets = place.path("/run/postgresql")
    log_path = place.path("/tmp") / "first-start.log"
    pg_ctl = ["pg_ctl", "-D", str(data), "-w", "-l", str(log_path)]
    psql = ["psql", "-h", str(sockets), "-v", "ON_ERROR_STOP=1", "-U", "postgres", "--no-psqlrc"]
    database = variables["POSTGRES_DB"]
    variables["POSTGRES_PASSWORD"] = Path(variables["POSTGRES_PASSWORD_FILE"]).read_text().strip()
    _run(container, [*pg_ctl, "-o", f"-c listen_addresses='' -k {sockets}", "start"])
    _run(container, [*psql, "-d", "postgres", "-c", f"CREATE DATABASE {database}"])
    for script in sorted(place.path("/docker-entrypoint-initdb.d").glob("*.sql")):
        _run(container, [*psql, "-d", database, "-f", str(script)], env=variables)
    _run(container, [*pg_ctl, "-m", "fast", "stop"])
    container.log_path.write_text(log_path.read_text())


def _run(container: "Container", command: list[str], **options: Any) -> None:
    everything = {**container.options, **options}
    # Not its output, which a server that it starts would hold open.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60, **everything)
