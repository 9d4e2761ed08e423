import django.core.validators
from django.db import migrations, models

import realtime.models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="ApiKey",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        help_text="Who holds the key.",
                        max_length=100,
                        unique=True,
                        validators=[realtime.models.validate_printable],
                    ),
                ),
                ("key_hash", models.CharField(editable=False, max_length=64, unique=True)),
                ("prefix", models.CharField(editable=False, max_length=6)),
                (
                    "scopes",
                    models.JSONField(
                        default=realtime.models.every_scope,
                        help_text="method, or method:channel pattern, where * stands for any characters; * alone is everything.",
                        validators=[realtime.models.validate_scopes],
                    ),
                ),
                (
                    "expires_at",
                    models.DateTimeField(blank=True, help_text="Empty: never.", null=True),
                ),
                ("last_used_at", models.DateTimeField(editable=False, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "verbose_name": "API key",
                "verbose_name_plural": "API keys",
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="Namespace",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        blank=True,
                        help_text="What stands before the first colon of a channel: demo for demo:clock. Empty: the options of channels without a namespace.",
                        max_length=100,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[-a-zA-Z0-9_.]{2,}\\Z",
                                "Use two or more of: letters, digits, hyphen, underscore, dot.",
                            )
                        ],
                    ),
                ),
                (
                    "history_size",
                    models.PositiveIntegerField(
                        default=0, help_text="How many publications are kept. 0: no history."
                    ),
                ),
                (
                    "history_ttl",
                    models.PositiveIntegerField(
                        default=0,
                        help_text="Seconds after the last publication when history is dropped. 0: no history.",
                        verbose_name="history TTL",
                    ),
                ),
                (
                    "force_recovery",
                    models.BooleanField(
                        default=False,
                        help_text="Clients that come back get what they missed, without asking. Needs history.",
                    ),
                ),
                (
                    "allow_recovery",
                    models.BooleanField(
                        default=False, help_text="Clients may ask for recovery. Needs history."
                    ),
                ),
                (
                    "force_positioning",
                    models.BooleanField(
                        default=False,
                        help_text="The server notices that a client missed something, without being asked.",
                    ),
                ),
                (
                    "allow_positioning",
                    models.BooleanField(
                        default=False, help_text="Clients may ask for positioning."
                    ),
                ),
                (
                    "presence",
                    models.BooleanField(
                        default=False,
                        help_text="Keep who is subscribed, for 60 seconds beyond a crash.",
                    ),
                ),
                (
                    "join_leave",
                    models.BooleanField(
                        default=False, help_text="Announce who subscribes and who leaves."
                    ),
                ),
                (
                    "force_push_join_leave",
                    models.BooleanField(
                        default=False,
                        help_text="Send the announcements to every subscriber, not only to those that ask and may read presence.",
                    ),
                ),
                (
                    "allow_subscribe_for_client",
                    models.BooleanField(
                        default=False, help_text="Users may subscribe without a subscription token."
                    ),
                ),
                (
                    "allow_subscribe_for_anonymous",
                    models.BooleanField(
                        default=False,
                        help_text="Where users may subscribe, connections without a user may too.",
                    ),
                ),
                (
                    "allow_publish_for_client",
                    models.BooleanField(
                        default=False, help_text="Users may publish from the browser."
                    ),
                ),
                (
                    "allow_publish_for_subscriber",
                    models.BooleanField(
                        default=False, help_text="Users may publish where they are subscribed."
                    ),
                ),
                (
                    "allow_publish_for_anonymous",
                    models.BooleanField(
                        default=False,
                        help_text="Where users may publish, connections without a user may too.",
                    ),
                ),
                (
                    "allow_history_for_client",
                    models.BooleanField(default=False, help_text="Users may read history."),
                ),
                (
                    "allow_history_for_subscriber",
                    models.BooleanField(
                        default=False, help_text="Users may read history where they are subscribed."
                    ),
                ),
                (
                    "allow_history_for_anonymous",
                    models.BooleanField(
                        default=False,
                        help_text="Where users may read history, connections without a user may too.",
                    ),
                ),
                (
                    "allow_presence_for_client",
                    models.BooleanField(
                        default=False, help_text="Users may read who is subscribed."
                    ),
                ),
                (
                    "allow_presence_for_subscriber",
                    models.BooleanField(
                        default=False,
                        help_text="Users may read who is subscribed where they are themselves.",
                    ),
                ),
                (
                    "allow_presence_for_anonymous",
                    models.BooleanField(
                        default=False,
                        help_text="Where users may read presence, connections without a user may too.",
                    ),
                ),
                (
                    "allow_user_limited_channels",
                    models.BooleanField(
                        default=False,
                        help_text="demo:talk#4,7 is open to the users 4 and 7 and to nobody else.",
                    ),
                ),
                (
                    "channel_regex",
                    models.CharField(
                        blank=True,
                        help_text="Python regular expression found anywhere in what follows the namespace; anchor it with ^ and $. Empty: any ASCII name. With it, other characters are allowed too.",
                        max_length=500,
                        validators=[
                            django.core.validators.ProhibitNullCharactersValidator(),
                            realtime.models.validate_regex,
                        ],
                    ),
                ),
                (
                    "publication_data_format",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("", "anything but nothing"),
                            ("json", "JSON"),
                            ("json_object", "a JSON object"),
                        ],
                        default="",
                        help_text="What publications must contain; others are refused.",
                        max_length=20,
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="SnapshotVersion",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("number", models.BigIntegerField()),
            ],
        ),
    ]
