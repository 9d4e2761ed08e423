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
        from upstreams.models import DataSource, Route, SourceMapping, Upstream
        from upstreams.sources import configuration as sources
        from upstreams.sources import poller

        snapshot.register_part(configuration.PART, configuration.load, watched=(Upstream, Route))
        hooks.provide(provider.UpstreamProvider())
        hooks.background("upstreams")(provider.close_client)
        snapshot.register_part(sources.PART, sources.load, watched=(DataSource, SourceMapping))
        hooks.background("data sources")(poller.run)
