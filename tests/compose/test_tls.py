"""nginx with a certificate, in front of the same deployment."""

import asyncio
import datetime
import os
import socket
import ssl
import subprocess
from pathlib import Path

import aiohttp
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.compose import definition
from tests.compose.conftest import Visitor, secrets_of
from tests.compose.containers import Container, Stack
from tests.compose.place import Place
from tests.docs.documents import document
from tests.support import processes
from tests.support.raw_client import RawClient

pytestmark = pytest.mark.end_to_end

TLS = document("docs/how-to/tls.md")
# Longer than any bound for an ordinary request.
BOUNDED_SECONDS = 7


def make_certificate(folder: Path) -> None:
    """Write a certificate for localhost that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "fullchain.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture(scope="module")
def nginx(stack: Stack) -> Container:
    """A second nginx, which has a certificate."""
    certificates = stack.folder / "certificates"
    certificates.mkdir()
    make_certificate(certificates)
    files = (definition.COMPOSE_FILE, definition.TLS_FILE)
    variables = {**stack.variables, "TLS_FOLDER": str(certificates)}
    says = definition.services(*files, variables=variables)["nginx"]
    address = f"{stack.network}.3"
    addresses = {name: each.place.here("0.0.0.0") for name, each in stack.containers.items()}
    place = Place(address, {**addresses, "nginx": address}, stack.folder / "containers" / "tls")
    container = Container("nginx with TLS", says, place, stack.folder / "logs" / "tls.log", {})
    stack.prepare(container)
    stack.containers["tls"] = container
    container.start()
    container.wait_healthy()
    return container


@pytest.fixture
def trusting(stack: Stack, nginx: Container) -> ssl.SSLContext:
    """Trust in that certificate."""
    return ssl.create_default_context(cafile=str(stack.folder / "certificates" / "fullchain.pem"))


async def test_pages_come_over_tls_with_secure_cookies(nginx: Container, trusting: ssl.SSLContext):
    url = nginx.place.here("https://0.0.0.0:8443/login/")
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            url, headers={"Host": "localhost"}, ssl=trusting, server_hostname="localhost"
        ) as response,
    ):
        assert response.status == 200
        assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert "Secure" in response.headers["Set-Cookie"]


async def test_a_websocket_comes_over_tls(stack: Stack, nginx: Container, trusting: ssl.SSLContext):
    token = jwt.encode({"sub": "42"}, secrets_of(stack)["token_hmac_secret"], algorithm="HS256")
    address = nginx.place.here("0.0.0.0")

    async with RawClient("wss://localhost/connection/websocket") as client:
        await client.open(ssl=trusting, host=address, port=8443, origin="https://localhost")
        result = await client.connect(token)

    assert result["client"]


def negotiated(nginx: Container, version: ssl.TLSVersion) -> str | None:
    """Return the version that nginx speaks with a client that speaks no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # or the client itself would refuse
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection((nginx.place.here("0.0.0.0"), 8443), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return wrapped.version()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_of_today_is_spoken(nginx: Container, version: ssl.TLSVersion):
    assert negotiated(nginx, version) == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1])
def test_tls_of_yesterday_is_refused(nginx: Container, version: ssl.TLSVersion):
    with pytest.raises(ssl.SSLError, match="alert protocol version"):
        negotiated(nginx, version)


def serial_number(nginx: Container) -> int:
    """Return which certificate a new connection is shown."""
    address = nginx.place.here("0.0.0.0")
    pem = ssl.get_server_certificate((address, 8443), timeout=5)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def renew(nginx: Container, folder: Path, tmp_path: Path) -> None:
    """Do as the script of the how-to does, with a new certificate; return once it is shown."""
    before = serial_number(nginx)
    make_certificate(tmp_path)
    (script,) = [each.text for each in TLS.blocks() if each.title and "sbin" in each.title]
    group = nginx.identity.get("group", os.getegid())
    for said, here in {
        "--group 101": f"--group {group}",
        "/srv/heliograph-tls": str(folder),
        "cd /srv/heliograph\n": "",
        "docker compose kill --signal HUP nginx": f"kill -HUP {nginx.process.pid}",
    }.items():
        assert said in script
        script = script.replace(said, here)
    variables = {**os.environ, "RENEWED_LINEAGE": str(tmp_path)}
    subprocess.run(["sh", "-c", script], env=variables, check=True, timeout=10)
    processes.wait_until(
        lambda: serial_number(nginx) != before, timeout_seconds=5, what="a new certificate"
    )


async def test_a_new_certificate_ends_no_connection(
    stack: Stack, nginx: Container, trusting: ssl.SSLContext, tmp_path: Path
):
    token = jwt.encode({"sub": "42"}, secrets_of(stack)["token_hmac_secret"], algorithm="HS256")
    address, folder = nginx.place.here("0.0.0.0"), stack.folder / "certificates"
    async with RawClient("wss://localhost/connection/websocket") as client:
        await client.open(ssl=trusting, host=address, port=8443, origin="https://localhost")
        await client.connect(token)

        await asyncio.to_thread(renew, nginx, folder, tmp_path)

        with pytest.raises(TimeoutError):
            await client.closed(timeout_seconds=BOUNDED_SECONDS)
        await client.subscribe("demo:renewed")  # and not only the socket is there


def test_the_question_of_a_certificate_authority_is_answered(stack: Stack, nginx: Container):
    folder = stack.folder / "certificates" / "acme" / ".well-known" / "acme-challenge"
    folder.mkdir(parents=True)
    (folder / "token").write_text("token.thumbprint")
    ask = Visitor(stack, service="tls").ask

    answer = ask("/.well-known/acme-challenge/token")

    assert (answer.status, answer.body) == (200, "token.thumbprint")
    assert answer.headers["Content-Type"] == "text/plain"
    assert ask("/.well-known/acme-challenge/none").status == 404
    for path in ("/.well-known/acme-challenge/%2e%2e/%2e%2e/privkey.pem", "/privkey.pem"):
        assert ask(path).status == 308


@pytest.mark.parametrize(
    ("path", "status", "location"),
    [
        ("/admin/?next=/x", 308, "https://localhost/admin/?next=/x"),
        ("/api/info", 403, None),
        ("/api", 403, None),
        ("/connection/websocket", 403, None),
        ("/ready", 308, "https://localhost/ready"),
        ("/health", 200, None),
    ],
)
async def test_without_tls_pages_are_led_on_and_keys_refused(
    nginx: Container, path: str, status: int, location: str | None
):
    url = nginx.place.here(f"http://0.0.0.0:8080{path}")
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers={"Host": "localhost"}, allow_redirects=False) as response,
    ):
        assert response.status == status
        assert response.headers.get("Location") == location
