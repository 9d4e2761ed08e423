"""What a person reads when the server is ready: where to look, how to sign in, what to try."""

import shlex
from ipaddress import ip_address
from pathlib import Path

from django.core.management.color import Style

from realtime.server.first_run import LOGIN, FirstRun

_TRY = '{"channel":"demo:hello","data":{"text":"hello"}}'


def development(*, url: str, found: FirstRun, stores: str, style: Style) -> str:
    """Return the banner of ``serve --dev``."""
    if found.password:
        sign_in = f"{LOGIN} / {found.password}   (shown only this once)"
    else:
        sign_in = f"{LOGIN}, with the password of the first run (manage.py changepassword {LOGIN})"
    rows = {
        "Page": f"{url}/",
        "Admin": f"{url}/admin/",
        "Sign in": sign_in,
        "Publish": publish_line(url, found.key_path),
    }
    lines = [f"  {style.HTTP_INFO(name.ljust(8))} {text}" for name, text in rows.items()]
    title = style.SUCCESS("Heliograph is ready") + f": development, {stores}"
    return "\n".join(["", title, "", *lines, "", "  Ctrl-C ends it.", ""])


def publish_line(url: str, key_path: Path) -> str:
    """Return a command line that publishes, as it can be pasted in the working directory."""
    path = shlex.quote(str(short_path(key_path)))
    return f"""curl -H "X-API-Key: $(cat {path})" -d '{_TRY}' {url}/api/publish"""


def short_path(path: Path) -> Path:
    """Return a path as a person in the working directory would type it."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def url_of(host: str, port: int) -> str:
    """Return the address of the site for somebody at this machine."""
    try:
        address = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        return f"http://{'127.0.0.1' if address.version == 4 else '[::1]'}:{port}"
    return f"http://{host if address.version == 4 else f'[{host}]'}:{port}"
