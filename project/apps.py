"""The composition as a Django app, for its system checks."""

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    """Registers the checks of ``checks.py``."""

    name = "project"

    def ready(self) -> None:
        """Import the checks, which register themselves."""
        from project import checks  # noqa: F401  # importing it registers them
