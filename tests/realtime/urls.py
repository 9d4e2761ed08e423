"""Views that publish, as those of a project do."""

import threading

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from realtime import services


def say(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"offset": services.publish("open:a", "from a view").offset})


async def say_async(request: HttpRequest) -> JsonResponse:
    position = await services.apublish("open:a", "from an asynchronous view")
    return JsonResponse({"offset": position.offset})


def say_in_thread(request: HttpRequest) -> JsonResponse:
    said = []
    thread = threading.Thread(target=lambda: said.append(services.publish("open:a", "thread")))
    thread.start()
    thread.join(10)
    return JsonResponse({"offset": said[0].offset})


def say_on_commit(request: HttpRequest) -> JsonResponse:
    with transaction.atomic():
        services.publish_on_commit("open:a", "committed")
    return JsonResponse({})


urlpatterns = [
    path("say", say),
    path("say_async", say_async),
    path("say_in_thread", say_in_thread),
    path("say_on_commit", say_on_commit),
]
