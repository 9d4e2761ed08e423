"""The project's settings, with a view beside it that does nothing."""

from project.settings import *  # noqa: F403  # as Django extends settings

ROOT_URLCONF = "bench.peers.apps.heliograph_urls"
