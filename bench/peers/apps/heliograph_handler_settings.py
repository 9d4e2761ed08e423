"""The same, with an app that has RPC methods in Python."""

from bench.peers.apps.heliograph_settings import *  # noqa: F403  # as Django extends settings
from project.settings import INSTALLED_APPS as PROJECT_APPS

INSTALLED_APPS = [*PROJECT_APPS, "bench.peers.apps.slow_handlers"]
