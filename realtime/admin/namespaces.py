"""Namespaces in the admin: one form, grouped by what an operator asks about a channel."""

from typing import TYPE_CHECKING

from django.contrib import admin

from realtime.models import Namespace

if TYPE_CHECKING:  # only the type checker's Django has this class generic
    _NamespaceAdmin = admin.ModelAdmin[Namespace]
else:
    _NamespaceAdmin = admin.ModelAdmin


@admin.register(Namespace)
class NamespaceAdmin(_NamespaceAdmin):
    """A change is in force on every instance within two seconds."""

    list_display = ("label", "history_size", "history_ttl", "force_recovery", "presence")
    list_filter = ("force_recovery", "presence", "join_leave")
    search_fields = ("name",)
    search_help_text = "Search by name"
    fieldsets = (
        (
            None,
            {
                "fields": ("name",),
                "description": "Options of all channels of one namespace. A change is in force on "
                "every instance within two seconds. Everything is off until you switch it on; a "
                "subscription token opens a channel whatever stands here.",
            },
        ),
        (
            "History and recovery",
            {
                "fields": (
                    "history_size",
                    "history_ttl",
                    "history_meta_ttl",
                    "force_recovery",
                    "allow_recovery",
                    "force_recovery_mode",
                    "auto_cache_recover",
                    "force_positioning",
                    "allow_positioning",
                ),
                "description": "A client that loses its connection gets what it missed, as far "
                "back as history reaches. Size and TTL go together.",
            },
        ),
        (
            "Presence",
            {
                "fields": ("presence", "join_leave", "force_push_join_leave"),
                "description": "Who is subscribed, and notes of coming and going. Meant for "
                "channels of up to some hundred subscribers.",
            },
        ),
        (
            "Who may subscribe",
            {
                "fields": (
                    "allow_subscribe_for_client",
                    "allow_subscribe_for_anonymous",
                    "allow_user_limited_channels",
                ),
                "description": "Without a subscription token. The options for anonymous "
                "connections do nothing alone: they widen the one above them.",
            },
        ),
        (
            "Who may publish",
            {
                "fields": (
                    "allow_publish_for_client",
                    "allow_publish_for_subscriber",
                    "allow_publish_for_anonymous",
                ),
                "description": "From the browser. Publishing over the server API needs an API key "
                "and none of these.",
            },
        ),
        (
            "Who may read history",
            {
                "fields": (
                    "allow_history_for_client",
                    "allow_history_for_subscriber",
                    "allow_history_for_anonymous",
                ),
            },
        ),
        (
            "Who may read presence",
            {
                "fields": (
                    "allow_presence_for_client",
                    "allow_presence_for_subscriber",
                    "allow_presence_for_anonymous",
                ),
            },
        ),
        ("What is accepted", {"fields": ("channel_regex", "publication_data_format")}),
    )

    @admin.display(description="name", ordering="name")
    def label(self, namespace: Namespace) -> str:
        """Return the name, or words for the empty one, which could not be clicked."""
        return str(namespace)
