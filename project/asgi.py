"""The ASGI application: Django answers HTTP, the engine's consumer answers WebSockets.

Calls of the server API are carried out before Django (docs/decisions/0021), and WebSockets go round
its session and user: a connection says who it is with a token.
"""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
# First: it loads the models that what follows imports.
http = get_asgi_application()

from api.asgi import ServerApi  # noqa: E402  # after the models
from realtime.consumers import not_found  # noqa: E402  # after the models
from realtime.routing import websocket_urlpatterns  # noqa: E402  # after the models

application = ProtocolTypeRouter(
    {
        "http": ServerApi(http),
        "websocket": URLRouter(
            [*websocket_urlpatterns, re_path(r"", not_found)]  # type: ignore[arg-type]  # ASGI
        ),
    }
)
