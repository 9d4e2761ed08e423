"""The description of the resources is true: each operation, asked, answers as it says."""

import json
from urllib.parse import quote

import pytest
from django.test import AsyncClient
from django.urls import get_resolver
from jsonschema import Draft202012Validator
from msgspec import Raw

from api.cursors import Cursor
from realtime import services
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import ClientInfo
from tests.api.conftest import KEY
from tests.api.test_resources import NONE, Resources

PUBLICATIONS = "/api/v1/channels/{channel}/publications"
PRESENCE = "/api/v1/channels/{channel}/presence"
METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture
async def document(configured):
    response = await AsyncClient().get("/api/v1/openapi.json")
    assert response.status_code == 200
    return json.loads(response.content)


def operations(document):
    return {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    }


def validator(document, reference):
    """Return what checks a value against a schema of the document."""
    return Draft202012Validator(
        {"$ref": reference["$ref"], "components": document["components"]},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def check(document, method, path, answer):
    """Check an answer's status, media type and body against the document."""
    responses = operations(document)[method, path]["responses"]
    described = responses.get(str(answer.status_code), responses["default"])
    if "content" not in described:
        assert answer.content == b""
        return
    ((media_type, content),) = described["content"].items()
    assert answer.headers["Content-Type"] == media_type
    validator(document, content["schema"]).validate(json.loads(answer.content))


async def test_it_is_open_api(document):
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(set(names)) == len(names)


def references(value):
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)


async def test_every_reference_leads_to_a_schema_and_every_schema_is_referred_to(document):
    named = {reference.removeprefix("#/components/schemas/") for reference in references(document)}

    assert named == set(document["components"]["schemas"])


async def test_every_address_is_described(document):
    routes = {
        pattern.pattern._route
        for resolver in get_resolver("api.resources").url_patterns
        for pattern in getattr(resolver, "url_patterns", [])
    }

    described = {
        path.removeprefix("/api/v1/")
        .replace("{channel}", "<channel:channel>")
        .replace("{", "<")
        .replace("}", ">")
        for path in document["paths"]
    }
    assert described == routes - {"", "docs", "openapi.json"}


async def test_every_operation_wants_a_key_and_names_its_parameters(document):
    assert document["components"]["securitySchemes"] == {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    }
    for (_, path), operation in operations(document).items():
        assert operation["security"] == [{"ApiKey": []}]
        assert "scope" in operation["description"]
        in_path = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert all(f"{{{name}}}" in path for name in in_path)
        assert path.count("{") == len(in_path)


async def test_the_body_of_a_publication_is_described(document):
    operation = operations(document)["post", PUBLICATIONS]
    content = operation["requestBody"]["content"]["application/json"]
    body = validator(document, content["schema"])

    assert body.is_valid(content["example"])
    assert body.is_valid({"data": 1, "tags": {"a": "b"}, "version": 5, "skip_history": True})
    for wrong in (
        {},
        {"data": None},
        {"data": 1, "tags": {"a": 1}},
        {"data": 1, "x": 1},
        {"data": 1, "version": -1},
    ):
        assert not body.is_valid(wrong)


GONE = Cursor("asc", 1, "elsewhere").encoded()
# What a caller may meet, as method, path, what stands in the address, and what is sent.
CASES = {
    "publish": ("post", PUBLICATIONS, "channels/kept:a/publications", {"data": 1}, 201),
    "publish elsewhere": ("post", PUBLICATIONS, "channels/plain:a/publications", {"data": 1}, 201),
    "malformed": ("post", PUBLICATIONS, "channels/kept:a/publications", b"{", 400),
    "no data": ("post", PUBLICATIONS, "channels/kept:a/publications", {}, 422),
    "bad tag": ("post", PUBLICATIONS, "channels/kept:a/publications", {"data": 1, "tags": 5}, 422),
    "unknown": ("post", PUBLICATIONS, "channels/nope:a/publications", {"data": 1}, 404),
    "history": ("get", PUBLICATIONS, "channels/kept:a/publications", NONE, 200),
    "first page": ("get", PUBLICATIONS, "channels/kept:full/publications?limit=2", NONE, 200),
    "no history": ("get", PUBLICATIONS, "channels/plain:a/publications", NONE, 409),
    "bad query": ("get", PUBLICATIONS, "channels/kept:a/publications?limit=0&order=x", NONE, 422),
    "bad cursor": ("get", PUBLICATIONS, "channels/kept:a/publications?cursor=x", NONE, 422),
    "gone": ("get", PUBLICATIONS, f"channels/kept:full/publications?cursor={GONE}", NONE, 410),
    "presence": ("get", PRESENCE, "channels/who:a/presence", NONE, 200),
    "counts": ("get", PRESENCE, "channels/who:a/presence?counts=only", NONE, 200),
    "no presence": ("get", PRESENCE, "channels/plain:a/presence", NONE, 409),
    "connections": ("get", "/api/v1/connections", "connections?limit=1", NONE, 200),
    "close": ("delete", "/api/v1/connections/{client}", "connections/some-client", NONE, 202),
    "bad close": ("delete", "/api/v1/connections/{client}", "connections/c?code=1", NONE, 422),
    "namespaces": ("get", "/api/v1/namespaces", "namespaces", NONE, 200),
    "namespace": ("get", "/api/v1/namespaces/{name}", "namespaces/kept", NONE, 200),
    "no namespace": ("get", "/api/v1/namespaces/{name}", "namespaces/nope", NONE, 404),
}  # fmt: skip


@pytest.fixture
async def filled(configured, call, monkeypatch):
    """A history with tags and a publisher, somebody present, and somebody connected."""
    for number in range(3):
        await call("publish", {"channel": "kept:full", "data": number, "tags": {"a": "b"}})
    somebody = ClientInfo("42", "c", Raw(b"{}"), Raw(b"[1]"))

    async def apresence(channel):
        return {"c": somebody} if channel == "who:a" else await unchanged(channel)

    async def aconnections(**_):
        return [services.ConnectionInfo("c", "42", "n", ["who:a"])], ["uid"]

    unchanged = services.apresence
    monkeypatch.setattr(services, "apresence", apresence)
    monkeypatch.setattr(services, "aconnections", aconnections)


@pytest.mark.parametrize("name", CASES)
async def test_an_operation_answers_as_described(filled, document, name):
    method, path, address, body, status = CASES[name]

    answer = await Resources().ask(method.upper(), address, body=body)

    assert answer.status_code == status
    check(document, method, path, answer)


def test_every_operation_is_asked():
    asked = {(method, path) for method, path, *_, status in CASES.values() if status < 300}

    assert len(asked) == 7


async def test_every_operation_is_described_and_no_other(document):
    assert set(operations(document)) == {case[:2] for case in CASES.values()}


@pytest.mark.parametrize("name", ["publish", "history", "presence", "connections", "close"])
async def test_refusals_of_every_operation_are_as_described(
    filled, document, make_key, monkeypatch, name
):
    method, path, address, body, _ = CASES[name]
    scoped = await make_key("info")

    async def ask(key=KEY):
        answer = await Resources(key).ask(method.upper(), address, body=body)
        check(document, method, path, answer)
        return answer.status_code

    assert await ask("wrong") == 401
    assert await ask(scoped) == 403
    for error, status in ((BrokerUnavailable(), 503), (RuntimeError(), 500)):

        async def fail(*_, error=error, **__):
            raise error

        for service in ("apublish", "ahistory", "apresence", "aconnections", "adisconnect_client"):
            monkeypatch.setattr(services, service, fail)
        assert await ask() == status


@pytest.mark.parametrize("name", ["history", "namespaces", "namespace"])
async def test_conditions_are_answered_as_described(filled, document, name):
    method, path, address, *_ = CASES[name]
    tag = (await Resources().get(address)).headers["ETag"]

    for header, status in (({"If-None-Match": tag}, 304), ({"If-Match": '"x"'}, 412)):
        answer = await Resources().get(address, headers=header)
        assert answer.status_code == status
        check(document, method, path, answer)


async def test_other_methods_and_media_types_are_refused_as_described(configured, document):
    for _, path in operations(document):
        address = path.removeprefix("/api/v1/").format(channel="kept:a", client="c", name="kept")
        answer = await Resources().ask("PATCH", quote(address))
        assert answer.status_code == 405
        ((method, _),) = list(document["paths"][path].items())[:1]
        check(document, method, path, answer)
    wrong = await Resources().publish("kept:a", {"data": 1}, media_type="text/plain")
    assert wrong.status_code == 415
    check(document, "post", PUBLICATIONS, wrong)


async def test_the_page_is_made_of_files_of_its_own_host(configured):
    response = await AsyncClient().get("/api/v1/docs")

    assert response.status_code == 200
    assert b"//cdn" not in response.content
    assert "script-src 'self';" in response.headers["Content-Security-Policy"]
