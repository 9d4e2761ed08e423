"""What docker-compose.yml, the Dockerfile and nginx.conf must say; nothing is started."""

import re
import shlex
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from realtime.conf import Settings
from realtime.management.serving import END_MARGIN_SECONDS
from tests.compose import definition
from tests.support.servers import REPOSITORY

SERVICES = definition.services(definition.COMPOSE_FILE, variables={})
OURS = [name for name, says in SERVICES.items() if says["image"] == "heliograph:local"]
SERVERS = [name for name, says in SERVICES.items() if says["restart"] != "no"]
NGINX = REPOSITORY / "deploy" / "nginx"


def every_service() -> Any:
    return pytest.mark.parametrize("says", SERVICES.values(), ids=SERVICES)


@every_service()
def test_every_service_is_a_plain_user_without_rights(says: dict[str, Any]):
    user, group = says["user"].split(":")

    assert int(user) > 0
    assert int(group) > 0
    assert says["cap_drop"] == ["ALL"]
    assert "cap_add" not in says
    assert "privileged" not in says
    assert says["security_opt"] == ["no-new-privileges:true"]


@every_service()
def test_every_service_is_bounded(says: dict[str, Any]):
    assert says["read_only"] is True
    assert all("size=" in tmpfs for tmpfs in says.get("tmpfs", []))
    assert says["mem_limit"].endswith("m")
    assert says["pids_limit"] > 0
    assert set(says["logging"]["options"]) == {"max-size", "max-file"}


@every_service()
def test_every_image_is_of_one_version(says: dict[str, Any]):
    assert re.search(r":(\d+[\w.-]*|local)$", says["image"])


def test_the_base_image_is_of_the_python_that_the_tests_run_with():
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))

    image = definition.image()

    version = pyproject["tool"]["mypy"]["python_version"]
    assert re.fullmatch(rf"python:{re.escape(version)}-slim-\w+", image.base)
    assert image.user == "10001:10001"
    assert {SERVICES[name]["user"] for name in OURS} == {image.user}


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_is_watched_and_started_again(name: str):
    says = SERVICES[name]
    health = says.get("healthcheck", {}).get("test") or definition.image().health

    assert name in OURS or "healthcheck" in says
    assert health
    assert says["restart"] == "unless-stopped"
    assert says["ulimits"]["nofile"]["soft"] >= 16384


def test_jobs_run_once_and_only_one_of_them_builds():
    jobs = set(SERVICES) - set(SERVERS)

    assert jobs == {"secrets", "migrate"}
    assert all(SERVICES[name]["healthcheck"] == {"disable": True} for name in jobs)
    assert [name for name, says in SERVICES.items() if "build" in says] == ["secrets"]
    # Whoever registers the name elsewhere must not be asked for it.
    assert {SERVICES[name]["pull_policy"] for name in OURS} == {"never"}


@pytest.mark.parametrize("name", ["instance-1", "instance-2", "instance-3", "web"])
def test_an_instance_has_the_time_that_its_end_takes(name: str):
    grace_seconds = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))

    assert grace_seconds > Settings().drain_seconds + END_MARGIN_SECONDS


def test_only_nginx_is_published_and_the_stores_are_out_of_reach():
    published = {name: says["ports"] for name, says in SERVICES.items() if "ports" in says}
    networks = definition.compose()["networks"]

    assert published == {"nginx": [{"target": 8080, "published": "8000", "host_ip": ""}]}
    assert networks["back"]["internal"] is True
    assert SERVICES["redis"]["networks"] == SERVICES["postgres"]["networks"] == ["back"]
    assert list(SERVICES["nginx"]["networks"]) == ["front"]
    assert SERVICES["secrets"]["network_mode"] == "none"
    assert not any("network_mode" in says for n, says in SERVICES.items() if n != "secrets")


def test_nobody_is_started_before_what_it_needs():
    conditions = {
        name: {other: wanted["condition"] for other, wanted in says.get("depends_on", {}).items()}
        for name, says in SERVICES.items()
    }
    done, healthy = "service_completed_successfully", "service_healthy"

    assert conditions["secrets"] == {}
    assert conditions["redis"] == conditions["postgres"] == {"secrets": done}
    assert conditions["migrate"] == {"secrets": done, "postgres": healthy}
    for name in ("instance-1", "instance-2", "instance-3", "web"):
        assert conditions[name] == {"migrate": done, "redis": healthy}
    assert set(conditions["nginx"].values()) == {healthy}


def test_no_secret_is_written_down():
    texts = [path.read_text(encoding="utf-8") for path in REPOSITORY.glob("docker-compose*.yml")]
    texts.append((REPOSITORY / "Dockerfile").read_text(encoding="utf-8"))
    named = [
        (name, value)
        for says in SERVICES.values()
        for name, value in says.get("environment", {}).items()
        if re.search("PASSWORD|SECRET|KEY", name)
    ]

    assert named
    for name, value in named:
        assert name.endswith("_FILE"), name
        assert value.startswith("/var/lib/heliograph/")
    for text in texts:
        assert not re.search(r"\w+://[^\s/@]+:[^\s/@]+@", text)


def test_only_what_serves_goes_into_the_image():
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {f"{name}/" for name in pyproject["tool"]["importlinter"]["root_packages"]}

    copied = {source for source, _ in definition.image().copies}

    assert rules[0] == "*"
    assert copied == packages | {"manage.py", "requirements.txt"}
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied


def test_the_user_of_the_image_reads_what_a_strict_umask_has_checked_out(tmp_path: Path):
    module = tmp_path / "package" / "module.py"
    module.parent.mkdir(mode=0o700)
    module.touch(mode=0o600)
    (step,) = [step for step in definition.image().steps if step.startswith("chmod ")]

    subprocess.run(shlex.split(step.replace("/app", str(tmp_path))), check=True)

    assert stat.S_IMODE(module.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(module.stat().st_mode) == 0o644


def test_no_single_file_of_the_repository_is_mounted():
    # Replaced by another one, as git does, it would stay the old one in the container.
    mounts = [each for says in SERVICES.values() for each in says.get("volumes", [])]
    sources = [source for source, *_ in (each.split(":") for each in mounts)]

    own = [REPOSITORY / source for source in sources if source.startswith(".")]

    assert len(own) == 3
    assert all(source.is_dir() for source in own)


def test_variables_are_put_in_as_compose_does():
    text = "a ${A:-b} ${C} ${D:-x ${A:-y} z}"

    assert definition.interpolated(text, {}) == "a b  x y z"
    assert definition.interpolated(text, {"A": "1", "C": "2"}) == "a 1 2 x 1 z"
    with pytest.raises(KeyError, match="which"):
        definition.interpolated("${E:?which}", {})


def test_the_port_and_the_hosts_come_from_the_environment():
    variables = {"PORT": "80", "ALLOWED_HOSTS": "app.example", "FRONT_NET": "10.9.8"}
    variables |= {"BIND": "127.0.0.1"}
    says = definition.services(definition.COMPOSE_FILE, variables=variables)

    port = {"target": 8080, "published": "80", "host_ip": "127.0.0.1"}
    assert says["nginx"]["ports"] == [port]
    assert says["web"]["environment"]["ALLOWED_HOSTS"] == "app.example 127.0.0.1"
    assert says["web"]["environment"]["PORT"] == "8000"
    assert says["migrate"]["command"][-1] == "http://localhost:80"
    assert says["nginx"]["extra_hosts"]["web"] == "10.9.8.10"


def test_nginx_knows_every_instance_by_its_fixed_address():
    hosts = SERVICES["nginx"]["extra_hosts"]
    named = set(re.findall(r"server ([\w-]+):8000", (NGINX / "http.conf").read_text()))

    assert set(hosts) == named == {"web", "instance-1", "instance-2", "instance-3"}
    for name, address in hosts.items():
        assert SERVICES[name]["networks"]["front"]["ipv4_address"] == address


def directives(*names: str) -> dict[str, list[str]]:
    """Return what stands after each directive of some files."""
    found: dict[str, list[str]] = {}
    for name in names:
        text = re.sub(r"#.*", "", (NGINX / name).read_text(encoding="utf-8"))
        for directive, value in re.findall(r"([a-z_]+)\s+((?:'[^']*'|[^;{}'])+);", text):
            found.setdefault(directive, []).append(" ".join(value.split()))
    return found


def test_nginx_is_bounded():
    found = directives("main.conf", "http.conf", "site.conf")

    (files,), (connections,) = found["worker_rlimit_nofile"], found["worker_connections"]
    assert int(files) >= 2 * int(connections)
    assert SERVICES["nginx"]["ulimits"]["nofile"]["hard"] >= int(files)
    # The workers of several reloads are there side by side.
    (workers,) = found["worker_processes"]
    assert SERVICES["nginx"]["pids_limit"] > 8 * int(workers)
    assert found["server_tokens"] == ["off"]
    for name in ("client_header_timeout", "client_body_timeout"):
        (seconds,) = found[name]
        assert int(seconds.removesuffix("s")) <= 10
    for name in ("client_max_body_size", "large_client_header_buffers", "limit_conn", "limit_req"):
        assert found[name]


def test_a_websocket_may_be_silent_for_longer_than_two_pings():
    site = (NGINX / "site.conf").read_text(encoding="utf-8")

    (seconds,) = re.findall(r"location /connection/ {[^}]*proxy_read_timeout (\d+)s;", site)

    assert int(seconds) > 2 * Settings().ping_interval_seconds


def test_every_request_that_is_passed_on_says_who_asked():
    site = (NGINX / "site.conf").read_text(encoding="utf-8")
    headers = directives("proxy.conf")["proxy_set_header"]

    blocks = re.findall(r"{[^}]*proxy_pass[^}]*}", site)

    assert len(blocks) == site.count("proxy_pass http")
    for block in blocks:
        assert "include proxy.conf;" in block
        assert "proxy_set_header Connection" in block
    assert {"X-Forwarded-For $remote_addr", "X-Real-IP $remote_addr"} <= set(headers)
    assert 'Daphne-Root-Path ""' in headers


def test_nginx_writes_no_query_into_a_log():
    found = directives("main.conf", "http.conf", "site.conf", "nginx.conf", "tls.conf")

    for form in found["log_format"]:
        for variable in ("$request ", '$request"', "$request_uri", "$args", "$query", "$http_"):
            assert variable not in form
    assert found["access_log"] == ["/dev/stdout line"]
    assert found["error_log"] == ["stderr notice", "stderr emerg"]
