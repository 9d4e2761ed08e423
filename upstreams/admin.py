"""Upstreams in the admin: what they are asked, and how they are doing."""

from typing import TYPE_CHECKING, Any, Final

from django import forms
from django.contrib import admin
from django.http import HttpRequest

from upstreams import admin_sources as admin_sources  # Django looks for ``admin.py`` alone
from upstreams.models import Route, Upstream, UpstreamState

if TYPE_CHECKING:  # only the type checker's Django has these classes generic
    _UpstreamForm = forms.ModelForm[Upstream]
    _UpstreamAdmin = admin.ModelAdmin[Upstream]
    _RouteInline = admin.TabularInline[Route, Upstream]
    _StateInline = admin.TabularInline[UpstreamState, Upstream]
else:
    _UpstreamForm = forms.ModelForm
    _UpstreamAdmin = admin.ModelAdmin
    _RouteInline = admin.TabularInline
    _StateInline = admin.TabularInline


SECRETS: Final = frozenset({"static_headers", "signing_secret", "forget_secret"})


class UpstreamForm(_UpstreamForm):
    """An upstream whose secret is written and never shown."""

    signing_secret = forms.CharField(
        required=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="Signs the body of each request: X-Heliograph-Signature. Not shown; empty leaves "
        "it as it is.",
    )
    forget_secret = forms.BooleanField(
        required=False, help_text="Take the secret away: requests are not signed."
    )

    class Meta:
        model = Upstream
        exclude = ()

    def clean_signing_secret(self) -> str:
        """Keep the secret that there is where none is given."""
        return self.cleaned_data["signing_secret"] or self.instance.signing_secret

    def clean(self) -> dict[str, Any] | None:
        """Forget the secret where that is asked."""
        cleaned = super().clean()
        if self.cleaned_data.get("forget_secret"):
            self.cleaned_data["signing_secret"] = ""
        return cleaned


class RouteInline(_RouteInline):
    """What the upstream is asked."""

    model = Route
    extra = 1


class StateInline(_StateInline):
    """What each server process has seen last."""

    model = UpstreamState
    verbose_name_plural = "seen by the server processes, where it ever failed"
    fields = ("instance", "is_open", "reason", "changed_at")
    readonly_fields = fields
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Upstream | None = None) -> bool:
        """Leave it to the servers."""
        return False


@admin.register(Upstream)
class UpstreamAdmin(_UpstreamAdmin):
    """A change is in force on every instance within two seconds."""

    form = UpstreamForm
    inlines = (RouteInline, StateInline)
    list_display = ("name", "base_url", "is_enabled", "asked_for", "is_answering")
    list_filter = ("is_enabled",)
    search_fields = ("name", "base_url")
    search_help_text = "Search by name or URL"
    fieldsets = (
        (
            None,
            {
                "fields": ("name", "base_url", "is_enabled", "allow_private_addresses"),
                "description": "An HTTP service that answers on behalf of this server, with the "
                "bodies of Centrifugo's proxies. A change is in force within two seconds.",
            },
        ),
        (
            "Limits",
            {
                "fields": (
                    "timeout_seconds",
                    "concurrency",
                    "queue_max",
                    "body_max_bytes",
                    "retries",
                    "breaker_failures",
                    "breaker_seconds",
                ),
            },
        ),
        (
            "What it is sent",
            {
                "fields": (
                    "static_headers",
                    "emulated_headers",
                    "http_headers",
                    "include_connection_meta",
                    "signing_secret",
                    "forget_secret",
                ),
            },
        ),
        ("What its answers mean", {"fields": ("status_transforms",)}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Upstream | None = None) -> Any:
        """Leave out what is sent from the pages of those who may only look: it holds secrets."""
        fieldsets = super().get_fieldsets(request, obj)
        if self.has_change_permission(request, obj):
            return fieldsets
        return [
            (title, {**options, "fields": [f for f in options["fields"] if f not in SECRETS]})
            for title, options in fieldsets
        ]

    @admin.display(description="asked for")
    def asked_for(self, upstream: Upstream) -> str:
        """Return its routes in short."""
        return ", ".join(map(str, upstream.routes.all())) or "nothing"

    @admin.display(description="answers", boolean=True)
    def is_answering(self, upstream: Upstream) -> bool:
        """Tell whether no server process has given it up for now."""
        return not any(state.is_open for state in upstream.states.all())

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the rows with what the list shows of each."""
        return super().get_queryset(request).prefetch_related("routes", "states")
