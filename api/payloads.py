"""Payloads as requests of the server API carry them: JSON, or base64 of it."""

from msgspec import Raw

from realtime.protocol import codec
from realtime.protocol.errors import BadRequest


def payload(json: Raw, in_base64: str | None, name: str) -> Raw:
    """Return what base64 holds, if there is any, else the JSON.

    Args:
        json: The field with the payload itself.
        in_base64: The field that stands above it.
        name: What the second one is called.
    Raises:
        BadRequest: Not base64; whether it holds JSON is checked where it is published.
    Source: Centrifugo server API, conventions.
    """
    if not in_base64:
        return json
    try:
        return codec.from_base64(in_base64)
    except BadRequest as error:
        raise BadRequest(f"{name} is not base64") from error
