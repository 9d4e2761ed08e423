"""What the how-tos about deployment say, compared with the files and done where it can be."""

import re
import shlex
import subprocess

import psycopg
import pytest
import yaml

from tests.compose import definition
from tests.compose.conftest import secrets_of
from tests.compose.containers import Container, Stack
from tests.docs.documents import code, document
from tests.support.servers import REPOSITORY

DEPLOY = document("docs/how-to/deploy-with-docker-compose.md")
BACKUP = document("docs/how-to/back-up-and-restore.md")
UPGRADE = document("docs/how-to/upgrade.md")
HOW_TOS = [
    DEPLOY,
    BACKUP,
    document("docs/how-to/tls.md"),
    UPGRADE,
]
SERVICES = definition.services(definition.COMPOSE_FILE, variables={})


def test_every_variable_of_the_compose_files_has_a_row():
    texts = [path.read_text(encoding="utf-8") for path in REPOSITORY.glob("docker-compose*.yml")]
    used = set(re.findall(r"\$\{(\w+)", "".join(texts)))

    listed = [name for cell, *_ in DEPLOY.table("Settings") for name in code(cell)]

    assert sorted(listed) == sorted(used)


def test_every_service_has_a_row():
    rows = [code(cell) for cell, _ in DEPLOY.table("What runs")]

    listed = {name for row in rows for name in row} | {"instance-2"}  # "to" stands between

    assert listed == set(SERVICES)


def test_every_volume_has_a_row():
    rows = [code(cell) for cell, *_ in BACKUP.table("Back up and restore")]

    named = {row[0] for row in rows if len(row) == 1}

    assert set(definition.compose()["volumes"]) <= named


def test_named_services_and_files_exist():
    for how_to in HOW_TOS:
        for block in how_to.blocks("sh"):
            for line in map(str.strip, block.text.splitlines()):
                line = line.partition(" | ")[2] or line
                words = shlex.split(line) if line.startswith("docker compose") else []
                places = {"exec": 0, "run": 0, "kill": -1, "pull": 0}
                if words[2:3] and words[2] in places:
                    assert set(words) & set(SERVICES), line
        for name in code(how_to.prose()):
            if name.startswith("deploy/") or name.endswith(".yml"):
                assert (REPOSITORY / name).exists(), name


def test_bounds_are_those_of_nginx():
    rows = dict(DEPLOY.table("Bounds of nginx"))
    text = "".join(path.read_text() for path in (REPOSITORY / "deploy/nginx").glob("*.conf"))

    def found(pattern: str) -> str:
        (value,) = set(re.findall(pattern, text))
        return str(value)

    header = found(r"client_header_timeout (\d+)s")
    assert header == found(r"client_body_timeout (\d+)s")
    assert rows["time to send a request's header, and pauses in its body"] == f"{header} s"
    connections = int(found(r"limit_conn connections (\d+)"))
    assert rows["connections of one address"] == f"{connections:,}, else 429"
    for zone in ("handshakes", "pages", "logins"):
        rate, burst = found(rf"zone={zone}:10m rate=(\d+)"), found(rf"zone={zone} burst=(\d+)")
        assert f"{rate} a second, {int(burst):,} at once, else 429" in rows.values()


def typed(stack: Stack, line: str, *, stdin: bytes = b"") -> bytes:
    """Do what a line of ``docker compose exec`` or ``run`` does in a service."""
    words = shlex.split(line.replace(">", " >").replace("<", " <"))
    words = [word for word in words if not word.startswith((">", "<"))]
    place = next(index for index, word in enumerate(words) if word in SERVICES)
    container: Container = stack[words[place]]
    command = [container.place.here(word) for word in words[place + 1 :]]
    sockets = container.place.folder / "tmpfs" / "run" / "postgresql"
    options = container.options
    options["env"] = {**options["env"], "PGHOST": str(sockets)}
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(heading: str) -> list[str]:
    """Return the commands under a heading."""
    text = BACKUP.text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    block = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    return [
        line for line in map(str.strip, block.splitlines()) if line.startswith("docker compose")
    ]


def test_no_block_changes_the_umask_of_the_shell_it_is_typed_into():
    # What git writes after that could not be read by the containers.
    texts = [block.text for how_to in HOW_TOS for block in how_to.blocks("sh")]

    assert any("umask 077" in text for text in texts)
    assert not any(re.search(r"^umask", text, re.MULTILINE) for text in texts)


@pytest.mark.parametrize(
    ("failing", "last"),
    [
        ("build --pull", "build --pull"),
        ("run --rm migrate", "run --rm migrate"),
        ("instance-1", "instance-1"),
        ("instance-3", "instance-3"),
        ("nothing", "web"),
    ],
)
def test_an_upgrade_ends_at_the_first_step_that_fails(failing: str, last: str):
    block = next(iter(UPGRADE.blocks("sh"))).text
    fails = f'docker() {{ echo "$*"; case "$*" in *"{failing}"*) return 1;; esac; }}'

    # An interactive shell goes on after a line that fails.
    done = subprocess.run(
        ["sh"], input=f"{fails}\n{block}\necho $?", capture_output=True, text=True
    )

    *steps, code = done.stdout.splitlines()
    assert steps[-1].endswith(last)
    assert code == ("0" if failing == "nothing" else "1")


@pytest.mark.end_to_end
def test_what_was_backed_up_can_be_restored(stack: Stack):
    dump, tar = lines("Back up")
    _, untar, _, restore, _ = lines("Restore")
    before = secrets_of(stack)

    archive, database = typed(stack, tar), typed(stack, dump)
    host, password = stack["postgres"].place.here("0.0.0.0"), before["postgres_password"]
    typed(stack, "docker compose exec postgres createdb -U postgres -O heliograph restored")
    typed(stack, restore.replace("--dbname heliograph", "--dbname restored"), stdin=database)
    for name in ("redis_password", "secret_key"):
        (stack.folder / "volumes" / "secrets" / name).unlink()
    typed(stack, untar, stdin=archive)

    assert secrets_of(stack) == before
    with psycopg.connect(
        host=host, user="heliograph", password=password, dbname="restored"
    ) as connection:
        assert connection.execute("SELECT username FROM auth_user").fetchall() == [("admin",)]
        assert connection.execute("SELECT name FROM realtime_apikey").fetchall() == [("first",)]


@pytest.mark.end_to_end
def test_the_database_takes_the_password_of_new_secrets(stack: Stack):
    text = BACKUP.text.partition("\n## When only the secrets are lost\n")[2]
    (line, statements) = re.findall(
        r"^(docker compose exec.*) <<'END'\n(.*?)^END$", text, re.M | re.S
    )[0]
    file = stack.folder / "volumes" / "secrets" / "postgres_password"
    host, before = stack["postgres"].place.here("0.0.0.0"), file.read_text()
    here = stack["postgres"].place.here(statements).encode()

    def login(password: str) -> None:
        user = {"user": "heliograph", "password": password.strip(), "dbname": "heliograph"}
        psycopg.connect(host=host, connect_timeout=5, **user).close()

    try:
        file.write_text("another one")
        typed(stack, line, stdin=here)
        login("another one")
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            login(before)
    finally:
        file.write_text(before)
        typed(stack, line, stdin=here)
    login(before)


@pytest.mark.end_to_end
def test_a_file_for_a_setting_gets_where_every_instance_reads_it(stack: Stack):
    (line,) = re.findall(r"^(docker compose run .*) <public.pem$", DEPLOY.text, re.MULTILINE)
    (path,) = re.findall(r"`REALTIME_TOKEN_PUBLIC_KEY_FILE=(.*)`", DEPLOY.text)

    typed(stack, line, stdin=b"a key")

    file = stack["instance-1"].place.path(path)
    assert typed(stack, f"docker compose exec instance-1 cat {path}") == b"a key"
    file.unlink()


@pytest.mark.end_to_end
def test_namespaces_are_imported_from_outside(stack: Stack):
    (line,) = re.findall(r"^cat \S+ \| (docker compose exec .* import .*)$", DEPLOY.text, re.M)

    said = typed(stack, line, stdin=b'{"channel": {"namespaces": [{"name": "prices"}]}}')

    assert b"prices" in said


def test_the_tls_files_are_found_by_the_variables_of_the_how_to():
    (block,) = [each for each in document("docs/how-to/tls.md").blocks() if each.title == ".env"]
    variables = dict(line.split("=", 1) for line in block.text.splitlines())
    files = [REPOSITORY / name for name in variables["COMPOSE_FILE"].split(":")]

    nginx = definition.services(*files, variables=variables)["nginx"]

    ports = [(each["published"], each["target"]) for each in nginx["ports"]]
    assert ports == [("80", 8080), ("443", 8443)]
    assert nginx["command"] == ["/etc/heliograph/nginx/tls.conf"]
    assert "/srv/heliograph-tls:/etc/heliograph/tls:ro" in nginx["volumes"]
    assert yaml.safe_load(files[1].read_text())["services"].keys() == {"nginx"}
