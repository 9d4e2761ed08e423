"""Data sources in the admin: what is polled, how that goes, and a poll on request."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import async_to_sync
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from realtime import services
from upstreams import configuration as upstream_configuration
from upstreams.models import DataSource, DataSourceState, SourceMapping
from upstreams.sources import configuration
from upstreams.sources.dry_run import dry_run

if TYPE_CHECKING:  # only the type checker's Django has these classes generic
    _SourceAdmin = admin.ModelAdmin[DataSource]
    _MappingInline = admin.TabularInline[SourceMapping, DataSource]
else:
    _SourceAdmin = admin.ModelAdmin
    _MappingInline = admin.TabularInline

# A source that should have been polled for so long, beyond two intervals, is not polled now.
_RESTS_AFTER: Final = timedelta(seconds=10)


class MappingInline(_MappingInline):
    """Which parts of the answer go where."""

    model = SourceMapping
    verbose_name = "channel"
    verbose_name_plural = "channels"
    extra = 1


@admin.register(DataSource)
class DataSourceAdmin(_SourceAdmin):
    """A change is in force on every instance within two seconds."""

    inlines = (MappingInline,)
    list_display = ("name", "every", "state", "error", "polled", "latency")
    list_filter = ("is_enabled", "last__state", "upstream")
    list_select_related = ("upstream", "last")
    search_fields = ("name", "path", "mappings__channel")
    search_help_text = "Search by name, path or channel"
    actions = ("poll_now",)
    readonly_fields = ("state", "polled", "latency", "answered", "error", "polled_by")
    fieldsets = (
        (
            None,
            {
                "fields": ("name", "upstream", "path", "is_enabled"),
                "description": "An address that is polled once for all viewers, whatever their "
                "number. Each channel below is told the value when it changes, and when the "
                "source fails. A change is in force within two seconds.",
            },
        ),
        (
            "When",
            {
                "fields": (
                    "interval_seconds",
                    "jitter_seconds",
                    "only_while_watched",
                    "stale_after_seconds",
                ),
            },
        ),
        ("What is sent", {"fields": ("headers",)}),
        (
            "The last poll",
            {"fields": ("state", "polled", "latency", "answered", "error", "polled_by")},
        ),
    )

    class Media:
        css = {"all": ("upstreams/admin.css",)}

    def get_fieldsets(self, request: HttpRequest, obj: DataSource | None = None) -> Any:
        """Leave out what a new source does not have yet."""
        shown = super().get_fieldsets(request, obj)
        return shown if obj is not None else shown[:-1]

    # What is shown of the last poll ----------------------------------------------------------

    @admin.display(description="every", ordering="interval_seconds")
    def every(self, source: DataSource) -> str:
        """Return the interval."""
        return f"{source.interval_seconds:g} s"

    @admin.display(description="state", ordering="last__state")
    def state(self, source: DataSource) -> str:
        """Return what viewers were told last, and whether that goes on."""
        last = _last(source)
        if not source.is_enabled:
            return "off"
        if last is None:
            return "never polled"
        due_at = last.polled_at + 2 * timedelta(
            seconds=source.interval_seconds + source.jitter_seconds
        )
        is_resting = timezone.now() > due_at + _RESTS_AFTER
        return f"{last.state}, not polled now" if is_resting else last.state

    @admin.display(description="polled at", ordering="last__polled_at")
    def polled(self, source: DataSource) -> str | None:
        """Return when it was polled last."""
        last = _last(source)
        return None if last is None else _shown(last.polled_at)

    @admin.display(description="latency", ordering="last__latency_seconds")
    def latency(self, source: DataSource) -> str | None:
        """Return how long that took."""
        last = _last(source)
        return None if last is None else f"{last.latency_seconds * 1000:.0f} ms"

    @admin.display(description="last good answer")
    def answered(self, source: DataSource) -> str | None:
        """Return when there was a value."""
        last = _last(source)
        return None if last is None or last.answered_at is None else _shown(last.answered_at)

    @admin.display(description="error", ordering="last__error")
    def error(self, source: DataSource) -> str | None:
        """Return why there is no value now."""
        last = _last(source)
        return None if last is None else last.error or None

    @admin.display(description="polled by")
    def polled_by(self, source: DataSource) -> str | None:
        """Return the server process that polled."""
        last = _last(source)
        return None if last is None else last.instance

    # Poll now --------------------------------------------------------------------------------

    @admin.action(description="Poll now", permissions=["change"])
    def poll_now(self, request: HttpRequest, chosen: QuerySet[DataSource]) -> None:
        """Have the sources polled at once, by whichever instance polls them."""
        for source in chosen:
            self._ask(request, source)

    def _ask(self, request: HttpRequest, source: DataSource) -> None:
        reason = _why_not(source)
        if reason:
            self.message_user(request, f"“{source}” is not polled: {reason}.", messages.WARNING)
            return
        # Every instance sees it as a change of the configuration, within a second or two.
        DataSource.objects.filter(pk=source.pk).update(poll_asked_at=timezone.now())
        self.log_change(request, source, "Asked for a poll.")
        self.message_user(request, f"“{source}” is polled within two seconds.", messages.SUCCESS)

    # Pages -----------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """Return the pages of a model, and those of one source."""
        more = [
            path(f"<int:pk>/{name}/", self.admin_site.admin_view(require_POST(view)), name=url_name)
            for name, view, url_name in (
                ("poll-now", self.poll_now_view, "upstreams_datasource_poll_now"),
                ("dry-run", self.dry_run_view, "upstreams_datasource_dry_run"),
            )
        ]
        return more + super().get_urls()

    def poll_now_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Have one source polled at once."""
        source = self._changeable(request, pk)
        self._ask(request, source)
        return HttpResponseRedirect(reverse("admin:upstreams_datasource_change", args=[pk]))

    def dry_run_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Poll once, and show what would be published; nobody is told."""
        source = self._changeable(request, pk)
        upstream = _upstream_of(source)
        context = {
            **self.admin_site.each_context(request),
            "title": "Dry run",
            "subtitle": str(source),
            "opts": self.opts,
            "source": source,
            "is_usable": upstream is not None,
            "run": upstream and async_to_sync(dry_run)(configuration.of_row(source), upstream),
            "media": self.media,
        }
        return TemplateResponse(request, "admin/upstreams/datasource/dry_run.html", context)

    def _changeable(self, request: HttpRequest, pk: int) -> DataSource:
        source = self.get_object(request, str(pk))
        if source is None:
            raise Http404
        if not self.has_change_permission(request, source):
            raise PermissionDenied
        return source


def _last(source: DataSource) -> DataSourceState | None:
    try:
        return source.last
    except DataSourceState.DoesNotExist:
        return None


def _shown(moment: datetime) -> str:
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S}"  # Django's own has no seconds


def _upstream_of(source: DataSource) -> upstream_configuration.UpstreamConfig | None:
    upstreams = upstream_configuration.of(services.snapshot().parts).upstreams
    return upstreams.get(source.upstream_id)


def _why_not(source: DataSource) -> str:
    if not source.is_enabled:
        return "it is not enabled"
    if not source.upstream.is_enabled:
        return "its upstream is not enabled"
    return "" if source.mappings.exists() else "it has no channel"
