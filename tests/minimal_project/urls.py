"""One view of a project's own that publishes."""

from django.http import HttpRequest, JsonResponse
from django.urls import path

from realtime.services import publish


def say(request: HttpRequest) -> JsonResponse:
    position = publish("chat:a", {"said": request.GET["what"]})
    return JsonResponse({"offset": position.offset})


urlpatterns = [path("say", say)]
