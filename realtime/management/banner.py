"""What a person reads when the server is ready: where to look, how to sign in, what to try."""

import shlex
from ipaddress import ip_address
from pathlib import Path

from django.core.management.color import Style

from realtime.server.first_run import LOGIN, FirstRun, FirstStart

_TRY = '{"channel":"demo:hello","data":{"text":"hello"}}'
_ONCE = "(shown only this once)"


def development(*, url: str, found: FirstRun, stores: str, style: Style) -> str:
    """Return the banner of ``serve --dev``."""
    if found.password:
        sign_in = f"{LOGIN} / {found.password}   {_ONCE}"
    else:
        sign_in = f"{LOGIN}, with the password of the first run (manage.py changepassword {LOGIN})"
    rows = {
        "Page": f"{url}/",
        "Admin": f"{url}/admin/",
        "Sign in": sign_in,
        "Publish": publish_line(url, found.key_path),
    }
    title = style.SUCCESS("Heliograph is ready") + f": development, {stores}"
    return "\n".join(["", title, "", *_table(rows, style), "", "  Ctrl-C ends it.", ""])


def deployment(*, url: str, made: FirstStart | None, style: Style) -> str:
    """Return what ``prepare`` says: where the site is, and on the first start the secrets."""
    rows = {"Page": f"{url}/", "Admin": f"{url}/admin/"} if url else {}
    if made is not None:
        rows["Sign in"] = f"{LOGIN} / {made.password}   {_ONCE}"
        if made.api_key is not None:
            rows["API key"] = f"{made.api_key}   {_ONCE}"
    return "\n".join(["", style.SUCCESS("Heliograph is prepared"), "", *_table(rows, style), ""])


def _table(rows: dict[str, str], style: Style) -> list[str]:
    return [f"  {style.HTTP_INFO(name.ljust(8))} {text}" for name, text in rows.items()]


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
