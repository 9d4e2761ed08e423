"""Django settings; the only reader of the environment.

Every variable has a row in the README. Without any of them the project runs on a laptop: SQLite,
an embedded Valkey and secrets of its own, all under ``VAR_DIR``.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from project import databases, engine, logs
from project.environment import Environment
from project.kept_secrets import kept_secret
from realtime.server import embedded

env = Environment(os.environ)

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = env.path("VAR_DIR", BASE_DIR / "var")
try:
    VAR_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
except OSError as error:
    raise ImproperlyConfigured(f"VAR_DIR: cannot make {VAR_DIR}: {error.strerror}") from error

# -- Who may do what ---------------------------------------------------------------------------

DEBUG = env.flag("DEBUG")
SECRET_KEY = env.secret("SECRET_KEY", is_required=True) or kept_secret(VAR_DIR / "secret_key")
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", "localhost .localhost 127.0.0.1 [::1]")
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")

# Only behind a proxy that overwrites these headers; otherwise every client could write them.
TRUST_PROXY_HEADERS = env.flag("TRUST_PROXY_HEADERS")
if TRUST_PROXY_HEADERS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
SILENCED_SYSTEM_CHECKS = [
    # project.security marks the cookies of a request over TLS as secure; always secure ones
    # would lock out whoever runs this without TLS on a laptop.
    "security.W012",
    "security.W016",
]

# -- Parts ---------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "realtime",  # before staticfiles and servestatic, whose runserver would hide ours
    "api",
    "dashboard",
    "upstreams",
    "project",
    "servestatic",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "project.security.content_security_policy",
    "servestatic.middleware.ServeStaticMiddleware",
    "project.security.secure_cookies",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

# -- Stores --------------------------------------------------------------------------------------

DATABASES = {
    "default": databases.from_url(
        env.text("DATABASE_URL"),
        password=env.secret("DATABASE_PASSWORD"),
        default_file=VAR_DIR / "db.sqlite3",
    )
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# A password in an address of its own goes before this one.
_redis_password = env.secret("REDIS_PASSWORD")
_redis_login = {"password": _redis_password} if _redis_password else {}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "realtime.layers.HeliographChannelLayer",
        "CONFIG": {
            "hosts": [
                {"address": url, **_redis_login}
                for url in env.words("REDIS_URL", embedded.address(VAR_DIR))
            ]
        },
    }
}

# -- Static files --------------------------------------------------------------------------------

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# The files of the page that describes the resources. As an installed app ninja would be loaded by
# every process, which costs megabytes.
_ninja = find_spec("ninja")
assert _ninja is not None, "a requirement"
STATICFILES_DIRS = [
    ("ninja", Path(folder) / "static" / "ninja")
    for folder in _ninja.submodule_search_locations or ()
]
# Collected files have hashed names; without them the apps' own folders are served. Who collects
# them for the first time finds no list of them yet, and has to make it.
_is_collecting = sys.argv[1:2] == ["collectstatic"]
_is_collected = not DEBUG and (_is_collecting or (STATIC_ROOT / "staticfiles.json").exists())
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "servestatic.storage.CompressedManifestStaticFilesStorage"
        if _is_collected
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}
SERVESTATIC_USE_FINDERS = not _is_collected
SERVESTATIC_ALLOW_ALL_ORIGINS = False

# -- Server and engine ---------------------------------------------------------------------------

HOST = env.text("HOST", "127.0.0.1")
PORT = env.number("PORT", 8000)
PROCESSES = env.number("PROCESSES", 1)

REALTIME = engine.values(env, var_dir=VAR_DIR, is_debug=DEBUG)

LOGGING = logs.configuration(is_terminal=sys.stderr.isatty(), has_colours=not env.text("NO_COLOR"))
# A variable that nothing reads is a mistake that a system check names.
UNKNOWN_VARIABLES = env.unknown("REALTIME_", engine.variables())
