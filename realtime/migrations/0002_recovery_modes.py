import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="namespace",
            name="auto_cache_recover",
            field=models.BooleanField(
                default=False,
                help_text="Every subscriber gets the newest publication at once, without asking. Needs force recovery and the mode cache.",
            ),
        ),
        migrations.AddField(
            model_name="namespace",
            name="force_recovery_mode",
            field=models.CharField(
                blank=True,
                choices=[
                    ("", "default: stream"),
                    ("stream", "stream: all that it missed"),
                    ("cache", "cache: the newest publication alone"),
                ],
                default="",
                help_text="What recovery gives. Cache is for channels whose newest publication says everything, and needs history.",
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="namespace",
            name="history_meta_ttl",
            field=models.PositiveIntegerField(
                default=0,
                help_text="Seconds after the last publication when its offset and epoch are forgotten; at least the history TTL. 0: REALTIME_HISTORY_META_TTL_SECONDS.",
                validators=[django.core.validators.MaxValueValidator(2147483647)],
                verbose_name="history meta TTL",
            ),
        ),
        migrations.AlterField(
            model_name="namespace",
            name="history_size",
            field=models.PositiveIntegerField(
                default=0,
                help_text="How many publications are kept. 0: no history.",
                validators=[django.core.validators.MaxValueValidator(2147483647)],
            ),
        ),
        migrations.AlterField(
            model_name="namespace",
            name="history_ttl",
            field=models.PositiveIntegerField(
                default=0,
                help_text="Seconds after the last publication when history is dropped. 0: no history.",
                validators=[django.core.validators.MaxValueValidator(2147483647)],
                verbose_name="history TTL",
            ),
        ),
    ]
