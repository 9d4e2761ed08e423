"""System checks of the environment the project was started in."""

from collections.abc import Iterable

from django.conf import settings
from django.core import checks


@checks.register
def check_variables_are_known(**_: object) -> Iterable[checks.CheckMessage]:
    """Warn of each variable that looks like a setting of the engine and is none."""
    return [
        checks.Warning(
            f"{name} is set, but no setting of this version has that name",
            hint="Look for a typing error, or unset it; the README lists every setting.",
            id="project.W001",
        )
        for name in settings.UNKNOWN_VARIABLES
    ]
