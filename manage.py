#!/usr/bin/env python
"""Run Django's commands and ours."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line


def main() -> None:
    """Run the command of the command line; a wrong setting is one line, without a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        if "--traceback" in sys.argv:
            raise
        sys.exit(f"Wrong setting: {error}")


if __name__ == "__main__":
    main()
