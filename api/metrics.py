"""``/metrics``: what this process counts, for Prometheus.

For holders of an API key with the scope ``metrics``, and for clients of ``metrics_networks``. It is
of the one process that answers; where several share a port, each has its own.
"""

import ipaddress

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from api.auth import caller_of, keys_in
from realtime import conf, metrics
from realtime.protocol.errors import PermissionDenied

SCOPE = "metrics"


@require_safe
async def metrics_text(request: HttpRequest) -> HttpResponse:
    """Answer with every metric, 401 without an accepted key, 403 where it is for something else."""
    if not _is_of_network(request.META.get("REMOTE_ADDR", "")):
        caller = await caller_of(keys_in(request.headers))
        if caller is None:
            return HttpResponse(status=401)
        try:
            caller.require(SCOPE)
        except PermissionDenied:
            return HttpResponse(status=403)
    return HttpResponse(metrics.text(), content_type=metrics.CONTENT_TYPE)


def _is_of_network(address: str) -> bool:
    networks = conf.current().metrics_networks
    if not networks:
        return False
    try:
        client = ipaddress.ip_address(address)
    except ValueError:
        return False
    # A socket for both families gives IPv4 clients an address of IPv6.
    client = getattr(client, "ipv4_mapped", None) or client
    return any(client in ipaddress.ip_network(network) for network in networks)
