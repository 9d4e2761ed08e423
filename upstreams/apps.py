"""The ``upstreams`` application: HTTP services that are asked, and sources that are polled."""

from django.apps import AppConfig


class UpstreamsConfig(AppConfig):
    """Upstreams and data sources."""

    name = "upstreams"
    label = "upstreams"
    verbose_name = "Upstreams"
    default_auto_field = "django.db.models.BigAutoField"
