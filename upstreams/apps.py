"""The ``upstreams`` application: HTTP services that are asked, and sources that are polled."""

from django.apps import AppConfig


class UpstreamsConfig(AppConfig):
    """Upstreams and data sources."""

    name = "upstreams"
    label = "upstreams"
    verbose_name = "Upstreams"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have every snapshot hold the configuration, and the engine ask by it."""
        from realtime import hooks, snapshot
        from upstreams import configuration, provider
        from upstreams.models import Route, Upstream

        snapshot.register_part(configuration.PART, configuration.load, watched=(Upstream, Route))
        hooks.provide(provider.UpstreamProvider())
        hooks.background("upstreams")(provider.close_client)
