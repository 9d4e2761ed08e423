from django.apps import AppConfig


class HandlersAppConfig(AppConfig):
    """An app like those that others write: all it has is ``realtime_handlers``."""

    name = "tests.handlers_app"
    label = "handlers_app"
