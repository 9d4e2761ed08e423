import django.core.validators
from django.db import migrations, models

import realtime.models


class Migration(migrations.Migration):
    dependencies = [
        ("realtime", "0002_recovery_modes"),
    ]

    operations = [
        migrations.AlterField(
            model_name="namespace",
            name="channel_regex",
            field=models.CharField(
                blank=True,
                help_text="Regular expression of RE2, found anywhere in what follows the namespace; anchor it with ^ and $. Empty: any ASCII name. With it, other characters are allowed too.",
                max_length=500,
                validators=[
                    django.core.validators.ProhibitNullCharactersValidator(),
                    realtime.models.validate_regex,
                ],
            ),
        ),
    ]
