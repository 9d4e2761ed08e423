"""System checks of the engine: what a deployment must have, each with its cure."""

import ipaddress
import math
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.utils.module_loading import import_string

from realtime import conf, token_settings
from realtime.layers import HeliographChannelLayer
from realtime.redis_client import LAYER_ALIAS, hosts, layer_config
from realtime.token_keys import UnusableKey, keys_of_settings
from realtime.token_settings import TokenSettings

SECRET_MIN_BYTES: Final = 32  # Source: RFC 7518, 3.2


@register("realtime")
def check_layer(**_: Any) -> list[CheckMessage]:
    """Check that the default channel layer is ours, and set so that it works."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    backend = layers.get(LAYER_ALIAS, {}).get("BACKEND", "")
    wanted = f"{HeliographChannelLayer.__module__}.{HeliographChannelLayer.__qualname__}"
    try:
        is_ours = issubclass(import_string(backend), HeliographChannelLayer)
    except (ImportError, TypeError):
        is_ours = False
    if not is_ours:
        hint = f'CHANNEL_LAYERS = {{"default": {{"BACKEND": "{wanted}", ...}}}}'
        message = "CHANNEL_LAYERS['default'] is not Heliograph's layer"
        return [Error(message, hint=hint, id="realtime.E001")]
    return [*_check_encryption(), *_check_hosts()]


def _check_encryption() -> list[CheckMessage]:
    if not layer_config().get("symmetric_encryption_keys"):
        return []
    return [
        Error(
            "the channel layer cannot encrypt: publications are sent by a script in Redis",
            hint="Remove symmetric_encryption_keys; use TLS (rediss://) on the way to Redis.",
            id="realtime.E002",
        )
    ]


def _check_hosts() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for host in hosts():
        if "address" not in host:
            hint = 'Give each host as {"address": "redis://..."}.'
            found.append(Error(f"host without an address: {host}", hint=hint, id="realtime.E003"))
        if str(host.get("protocol", "2")) != "2":
            hint = "Remove protocol: raw replies are read as RESP2."
            found.append(Error("the layer speaks RESP2", hint=hint, id="realtime.E004"))
        if host.get("socket_timeout") is not None:
            # redis-py 8 has five seconds by default, which ends idle subscriptions.
            hint = "Remove socket_timeout: REALTIME['BROKER_TIMEOUT_SECONDS'] is the deadline."
            message = "socket_timeout of a layer host is not used"
            found.append(Warning(message, hint=hint, id="realtime.W001"))
    return found


@register("realtime")
def check_settings(**_: Any) -> list[CheckMessage]:
    """Check that numbers are possible and fit together."""
    values = conf.current()
    found = _check_numbers(values) or _check_pairs(values)
    if values.insecure:
        hint = "REALTIME['INSECURE'] is for tests and demos."
        found.append(Warning("anybody may do anything", hint=hint, id="realtime.W003"))
    return found


def _check_numbers(values: conf.Settings) -> list[CheckMessage]:
    numbers = [
        (f"REALTIME[{name.upper()!r}]", getattr(values, name), least)
        for name, least in conf.LEAST.items()
    ]
    numbers.append(("PROCESSES", getattr(settings, "PROCESSES", 1), 1))
    return [
        Error(
            f"{name} must be a number and at least {least}, not {value!r}",
            hint=f"Set it to {least} or more, or leave it out for the default.",
            id="realtime.E007",
        )
        for name, value, least in numbers
        if not _is_at_least(least, value)
    ]


def _is_at_least(least: float, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return least <= value < math.inf  # a wait without an end is none that is bounded


def _check_pairs(values: conf.Settings) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if values.pong_timeout_seconds >= values.ping_interval_seconds:
        hint = "REALTIME['PONG_TIMEOUT_SECONDS'] must be below PING_INTERVAL_SECONDS."
        found.append(Error("a pong may come later than a ping", hint=hint, id="realtime.E005"))
    if values.presence_renewal_seconds * 2 > values.presence_ttl_seconds:
        hint = "PRESENCE_RENEWAL_SECONDS must be at most half of PRESENCE_TTL_SECONDS."
        found.append(Error("presence lapses between renewals", hint=hint, id="realtime.E006"))
    return found


@register("realtime")
def check_channel_rule(**_: Any) -> list[CheckMessage]:
    """Check that the rule of subscription tokens is a function that is there."""
    path = conf.current().channel_rule
    if not path:
        return []
    try:
        problem = "" if callable(import_string(path)) else "it cannot be called"
    except (ImportError, TypeError, ValueError) as error:  # the last two of paths like ".x"
        problem = str(error)
    if not problem:
        return []
    message = f"REALTIME['CHANNEL_RULE'] = {path!r} is no function: {problem}"
    hint = "Give the dotted path of a function of a user and a channel, such as shop.rules.may_see."
    return [Error(message, hint=hint, id="realtime.E008")]


@register("realtime")
def check_handlers(**_: Any) -> list[CheckMessage]:
    """Check that what the apps declare can be called, and that each method has one handler."""
    # Not imported above: importing this module comes before the models.
    from realtime import answering

    problem = answering.registry.problem
    if not problem:
        return []
    hint = "See docs/reference/handlers.md for what a handler may look like."
    return [Error(problem, hint=hint, id="realtime.E015")]


@register("realtime")
def check_metrics_networks(**_: Any) -> list[CheckMessage]:
    """Check that whoever may read the metrics without a key is said as networks."""
    found: list[CheckMessage] = []
    for network in conf.current().metrics_networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            message = f"REALTIME['METRICS_NETWORKS']: {error}"
            hint = "Give networks such as 10.0.0.0/8 or fd00::/8, or single addresses."
            found.append(Error(message, hint=hint, id="realtime.E014"))
    return found


@register("realtime")
def check_personal_namespace(**_: Any) -> list[CheckMessage]:
    """Check that a namespace could have the name of that of personal channels."""
    name = conf.current().personal_channel_namespace
    # Not imported above: importing this module comes before the models.
    field = apps.get_model("realtime", "Namespace")._meta.get_field("name")
    try:
        field.run_validators(name)
    except ValidationError as error:
        message = f"REALTIME['PERSONAL_CHANNEL_NAMESPACE'] = {name!r} is the name of no namespace"
        return [Error(message, hint=" ".join(error.messages), id="realtime.E009")]
    return []


@register("realtime")
def check_tokens(**_: Any) -> list[CheckMessage]:
    """Check that whose tokens are accepted is said in a form that can be used."""
    connections, own = token_settings.of_connections(), token_settings.under_subscriptions()
    found: list[CheckMessage] = []
    if not connections.has_keys:
        hint = "Set REALTIME['TOKEN_HMAC_SECRET'] to at least 32 random characters."
        found.append(Warning("no token verifies without a key", hint=hint, id="realtime.W002"))
    found += [*_check_keys(connections), *_check_claims(connections)]
    if own.has_keys:
        found += [*_check_keys(own), *_check_claims(own)]
    elif own.asks_for_something:
        message = "settings of subscription tokens do not count without a key of their own"
        hint = "Set a REALTIME['SUBSCRIPTION_TOKEN_...'] secret, public key or JWKS URL."
        found.append(Error(message, hint=hint, id="realtime.E013"))
    return found


def _check_keys(values: TokenSettings) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    try:
        keys_of_settings(values)
    except UnusableKey as error:
        hint = (
            "A secret is random text. A public key is PEM: RSA of 2048 bits or more, EC on P-256, "
            "P-384 or P-521, or Ed25519; openssl pkey -in private.pem -pubout prints it."
        )
        found.append(Error(str(error), hint=hint, id="realtime.E010"))
    try:
        values.check_jwks_url()
    except ImproperlyConfigured as error:
        hint = "Give an https URL without user and password; http only to this machine."
        found.append(Error(str(error), hint=hint, id="realtime.E011"))
    if 0 < len(values.hmac_secret.encode()) < SECRET_MIN_BYTES:
        hint = f"Make it {SECRET_MIN_BYTES} random characters or more: openssl rand -hex 32."
        message = f"{values.name('hmac_secret')} is short enough to be guessed"
        found.append(Warning(message, hint=hint, id="realtime.W004"))
    return found


def _check_claims(values: TokenSettings) -> list[CheckMessage]:
    try:
        values.expectation("audience")
        values.expectation("issuer")
        values.check_user_id_claim()
    except ImproperlyConfigured as error:
        hint = "Set a plain value or a pattern (of RE2), and a claim that names the user."
        return [Error(str(error), hint=hint, id="realtime.E012")]
    return []
