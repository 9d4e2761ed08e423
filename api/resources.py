"""The resources at ``/api/v1/``, their description and its page.

Every answer that is no success is a problem, also for what never reaches an operation: an unknown
address, another method. Nothing here reads a cookie, so that there is nothing for a forged request
to borrow.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from django.contrib.staticfiles import finders
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, HttpResponseNotAllowed
from django.urls import URLPattern, URLResolver, path, re_path
from django.views.decorators.csrf import csrf_exempt
from ninja.errors import HttpError, ValidationError

from api import channel_resources, problems, results, server_resources
from api.openapi import DescribedApi
from api.problems import of_failure
from api.requests import ApiKey
from api.schemas import PublicationBody
from realtime import conf

_NINJAS_OWN: Final = {"openapi-json", "openapi-view", "api-root"}

api = DescribedApi(
    [
        PublicationBody,
        results.Position,
        results.PublicationPage,
        results.Presence,
        results.ConnectionPage,
        results.NamespaceResult,
        results.NamespaceList,
    ],
    title="Heliograph",
    version=conf.VERSION,
    description="Publish to channels, read their history and presence, list and close connections. "
    "Every call needs an API key with the scope that it names. What is refused is answered with a "
    "problem (RFC 9457).",
    urls_namespace="api-v1",
    auth=ApiKey(),
    # The page is made of files of ninja's; without them there is none.
    docs_url="/docs" if finders.find("ninja/swagger-ui.css") else None,
)
api.add_router("/channels", channel_resources.router)
api.add_router("", server_resources.router)
for kind in (Exception, HttpError, ValidationError):
    # ninja's type allows for classes too; only what was raised ever comes.
    api.add_exception_handler(kind, of_failure)  # type: ignore[arg-type]  # see above


@csrf_exempt
async def not_found(request: HttpRequest) -> HttpResponse:
    """Answer for every address that is none."""
    return problems.response(problems.NOT_FOUND)


def _in_words_of_problems(view: Callable[..., Any]) -> Callable[..., Any]:
    """Return a view that answers HEAD too, and with a problem where Django or ninja would not."""

    @wraps(view)
    async def answer(request: HttpRequest, **parts: str) -> HttpResponseBase:
        if request.method == "HEAD":
            request.method = "GET"  # the server leaves the body out
        response: HttpResponseBase = await view(request, **parts)
        if isinstance(response, HttpResponseNotAllowed):
            allowed = set(response.headers["Allow"].split(", "))
            allowed |= {"HEAD"} if "GET" in allowed else set()
            response = problems.response(problems.NOT_ALLOWED)
            response.headers["Allow"] = ", ".join(sorted(allowed))
        elif response.status_code == problems.PRECONDITION.status:
            response = problems.response(problems.PRECONDITION)
        return response

    return answer


def _patterns() -> tuple[list[URLPattern | URLResolver], str, str]:
    patterns, app_name, namespace = api.urls
    for pattern in patterns:
        if isinstance(pattern, URLPattern) and pattern.name not in _NINJAS_OWN:
            pattern.callback = _in_words_of_problems(pattern.callback)
    return patterns, app_name, namespace


urlpatterns: list[URLPattern | URLResolver] = [
    path("", not_found),  # before ninja's own, which is there to be named alone
    path("", _patterns()),
    re_path(r"", not_found),
]
