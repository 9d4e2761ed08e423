"""The description of the resources, from the very classes that are read and written.

django-ninja describes and checks what is in addresses. Bodies are described here, out of the
``msgspec`` structs: pydantic would parse them again, and a publisher's bytes would not survive.
"""

import inspect
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from ninja import NinjaAPI
from ninja.openapi.docs import Swagger
from ninja.openapi.schema import OpenAPISchema
from ninja.operation import Operation

from api.problems import CONTENT_TYPE as PROBLEM_TYPE
from api.problems import Problem

_JSON: Final = "application/json"
_REFERENCE: Final = "#/components/schemas/{name}"
_PROBLEM_ANYWHERE: Final = "A problem: 401, 403, 405, 422, 500 or 503."

Extra = dict[str, Any]


class Page(Swagger):
    """The page of the resources, whether or not ``ninja`` is among the installed apps."""

    def render_page(self, request: HttpRequest, api: NinjaAPI, **parts: Any) -> HttpResponse:
        """Return the page; its files come from its own host."""
        options = {**self.settings, "url": self.get_openapi_url(api, parts)}
        return render(request, "api/docs.html", {"api": api, "options": options})


class DescribedApi(NinjaAPI):
    """The resources, with the structs that their descriptions name.

    Args:
        structs: Every struct that an operation names.
        options: What ``NinjaAPI`` takes.
    """

    def __init__(self, structs: Sequence[type], **options: Any) -> None:
        # No word to a validator elsewhere.
        docs = Page({"validatorUrl": None, "persistAuthorization": False, "deepLinking": False})
        super().__init__(docs=docs, **options)
        _, components = msgspec.json.schema_components([*structs, Problem], ref_template=_REFERENCE)
        self._components = {name: _described(schema) for name, schema in components.items()}

    def get_openapi_operation_id(self, operation: Operation) -> str:
        """Return what generated clients call an operation."""
        return operation.view_func.__name__

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        """Return the document."""
        document = super().get_openapi_schema(**options)
        document["components"]["schemas"].update(self._components)
        return document


def described(
    status: int,
    answer: type | None,
    *,
    refusals: Sequence[int] = (),
    body: type | None = None,
    example: object = None,
    headers: Mapping[str, str] | None = None,
    is_conditional: bool = False,
) -> Extra:
    """Return the arguments that describe an operation to ``ninja``.

    Args:
        status: Of success.
        answer: What is written then; None is nothing.
        refusals: Statuses that come with a problem, beside those that are the same everywhere.
        body: What is read.
        example: A body.
        headers: Of the request, with what they are for.
        is_conditional: There is an ``ETag``, and 304 for who has it.
    """
    success: Extra = {} if answer is None else {"content": _content(_JSON, answer)}
    answers: dict[int, Extra] = {status: success}
    if is_conditional:
        success["headers"] = {"ETag": {"schema": {"type": "string"}}}
        answers[304] = {}
        headers = {"If-None-Match": "The ETag of an earlier answer.", **(headers or {})}
        refusals = (*refusals, 412)
    problem = {"content": _content(PROBLEM_TYPE, Problem)}
    answers |= dict.fromkeys(refusals, problem)
    extra: Extra = {"parameters": [_header(*each) for each in (headers or {}).items()]}
    extra["responses"] = {
        each: {"description": HTTPStatus(each).phrase, **more} for each, more in answers.items()
    }
    extra["responses"]["default"] = {"description": _PROBLEM_ANYWHERE, **problem}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": _content(_JSON, body, example)}
    return {"response": {status: None}, "openapi_extra": extra}


def _content(media_type: str, struct: type, example: object = None) -> Extra:
    schema = {"$ref": _REFERENCE.format(name=struct.__name__)}
    return {media_type: {"schema": schema, **({"example": example} if example else {})}}


def _header(name: str, text: str) -> Extra:
    return {"in": "header", "name": name, "description": text, "schema": {"type": "string"}}


def _described(schema: Extra) -> Extra:
    """Return a schema whose description, a docstring, reads as Markdown."""
    text = inspect.cleandoc(schema.get("description", "")).replace("``", "`")
    return {**schema, "description": text}
