"""The settings of the project with the app of the handlers in it, for servers of the tests."""

from project.settings import *  # noqa: F403  # as Django extends settings
from project.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.handlers_app"]
