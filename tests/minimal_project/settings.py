"""The least that a Django project needs to mount ``realtime``, and nothing of ``project``."""

import os

SECRET_KEY = "only-for-the-tests-of-a-minimal-project-0123456789"
ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
INSTALLED_APPS = ["realtime"]
ROOT_URLCONF = "tests.minimal_project.urls"
ASGI_APPLICATION = "tests.minimal_project.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["MINIMAL_DATABASE"]}
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "realtime.layers.HeliographChannelLayer",
        "CONFIG": {"hosts": [{"address": os.environ["REDIS_URL"]}]},
    }
}
REALTIME = {"TOKEN_HMAC_SECRET": "only-for-the-tokens-of-a-minimal-project-0123456789"}
