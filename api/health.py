"""``/health`` and ``/ready``: for load balancers, process managers and whoever wonders.

``/health`` answers as long as the process does. ``/ready`` says whether it can serve, check by
check.
"""

import logging

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from realtime import services

logger = logging.getLogger(__name__)

OK = "ok"


@require_safe
async def health(request: HttpRequest) -> JsonResponse:
    """Answer 200; that there is an answer is the answer."""
    return JsonResponse({})


@require_safe
async def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 with every check ``ok``, or 503 with what is wrong beside its name."""
    try:
        checks = await services.areadiness()
    except Exception:
        logger.exception("readiness could not be checked")
        checks = {"readiness": "could not be checked: see the log"}
    is_ready = all(state == OK for state in checks.values())
    return JsonResponse(checks, status=200 if is_ready else 503)
