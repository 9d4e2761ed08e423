"""The project's URLs and an empty async view, the unit of what an HTTP request costs here."""

from django.http import HttpRequest, HttpResponse
from django.urls import include, path


async def empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


urlpatterns = [path("bench/empty", empty), path("", include("project.urls"))]
