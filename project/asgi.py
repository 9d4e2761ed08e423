"""The ASGI application: Django answers HTTP, the engine's consumer answers WebSockets.

WebSockets go round Django's session and user: a connection says who it is with a token.
"""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
# First: it loads the models that what follows imports.
http = get_asgi_application()

from realtime.consumers import not_found  # noqa: E402  # after the models
from realtime.routing import websocket_urlpatterns  # noqa: E402  # after the models

application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": URLRouter(
            [*websocket_urlpatterns, re_path(r"", not_found)]  # type: ignore[arg-type]  # ASGI
        ),
    }
)
