import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0003_patterns_of_re2"),
    ]

    operations = [
        migrations.CreateModel(
            name="AccessChange",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "user",
                    models.TextField(
                        blank=True, help_text="Primary key of the user; empty is everybody."
                    ),
                ),
                (
                    "model",
                    models.TextField(
                        blank=True,
                        help_text="Only what rules decided that watch this model; empty is all rules.",
                    ),
                ),
                (
                    "at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), db_index=True
                    ),
                ),
            ],
        ),
    ]
