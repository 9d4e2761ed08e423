"""API keys in the admin: made at random, shown once, kept as a hash."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest

from realtime.models import ApiKey, make_key

if TYPE_CHECKING:  # only the type checker's Django has these classes generic
    _ApiKeyForm = forms.ModelForm[ApiKey]
    _ApiKeyAdmin = admin.ModelAdmin[ApiKey]
else:
    _ApiKeyForm = forms.ModelForm
    _ApiKeyAdmin = admin.ModelAdmin


class ScopesField(forms.CharField):
    """A list of scopes, one a line."""

    widget = forms.Textarea(attrs={"rows": 5, "cols": 60})

    def prepare_value(self, value: Any) -> Any:
        """Return the lines of a stored list."""
        return "\n".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        """Return the list of the lines that say something."""
        return [line.strip() for line in (value or "").splitlines() if line.strip()]

    def validate(self, value: Any) -> None:
        """Leave the list to the model, which knows the grammar and says what is wrong."""

    def run_validators(self, value: Any) -> None:
        """Leave the list to the model: those of a text would not understand it."""

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compare the lists, not the text."""
        return bool(initial != self.to_python(data))


class ApiKeyForm(_ApiKeyForm):
    """An API key without the key."""

    scopes = ScopesField(
        help_text="One a line: a method such as publish, or a method with a pattern of channels "
        "such as publish:demo:*, where * stands for any characters. * alone is everything.",
    )

    class Meta:
        model = ApiKey
        fields = ("name", "scopes", "expires_at")


@admin.register(ApiKey)
class ApiKeyAdmin(_ApiKeyAdmin):
    """The key is in the message after it was added and nowhere else."""

    form = ApiKeyForm
    list_display = ("name", "beginning", "scope_list", "expires_at", "last_used_at", "created_at")
    search_fields = ("name", "prefix")
    search_help_text = "Search by name or by the first characters of the key"
    readonly_fields = ("beginning", "last_used_at", "created_at")
    fieldsets = (
        (
            None,
            {
                "fields": ("name", "scopes", "expires_at"),
                "description": "The key is made at random and shown once, after you save. It can "
                "be changed or deleted at any time: that is in force within two seconds.",
            },
        ),
        ("Use", {"fields": ("beginning", "last_used_at", "created_at")}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        """Leave out what a new key does not have yet."""
        shown = super().get_fieldsets(request, obj)
        return shown if obj is not None else shown[:1]

    @admin.display(description="key", ordering="prefix", empty_value="not made yet")
    def beginning(self, api_key: ApiKey) -> str | None:
        """Return the characters by which people tell keys apart."""
        return f"{api_key.prefix}…" if api_key.prefix else None

    @admin.display(description="scopes")
    def scope_list(self, api_key: ApiKey) -> str:
        """Return the scopes on one line."""
        return ", ".join(map(str, api_key.scopes))

    def save_model(
        self, request: HttpRequest, obj: ApiKey, form: _ApiKeyForm, change: bool
    ) -> None:
        """Give a new row its key, and show it to whoever made it."""
        if change:
            super().save_model(request, obj, form, change)
            return
        key = make_key()
        obj.set_key(key)
        super().save_model(request, obj, form, change)
        messages.warning(request, f"The key is {key} and is not shown again: copy it now.")
