"""HTTP and WebSockets of the minimal project."""

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

http = get_asgi_application()

from realtime.routing import websocket_urlpatterns  # noqa: E402  # after the models are loaded

application = ProtocolTypeRouter({"http": http, "websocket": URLRouter(websocket_urlpatterns)})
