"""The engine's pages in Django's admin; imported by its autodiscovery."""

from realtime.admin import api_keys, namespaces

__all__ = ["api_keys", "namespaces"]
