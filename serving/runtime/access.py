"""Who may ask: a bearer token, a client certificate, or a policy of one's own.

A policy is a callable `policy(caller: Caller) -> None`; `--access-policy package.module:name` names it. It
raises Unauthorized for a caller whom it does not know (401, UNAUTHENTICATED: come back with other
credentials), and Forbidden for one whom it knows and who may not do this with this model (403,
PERMISSION_DENIED). Health and metrics stay open: the kubelet and Prometheus carry no tokens.
"""

from __future__ import annotations

import hmac
import importlib
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from serving.runtime.config import Config
from slipway.errors import SettingsError, Unauthorized

Action = Literal["infer", "read", "manage"]
"""Predict; look at metadata and index; load and unload."""


class Caller(msgspec.Struct, frozen=True):
    action: Action
    model: str
    """Empty for what concerns no single model."""
    headers: Mapping[str, str]
    """Names in lower case; gRPC's metadata count as headers."""
    certificate: Mapping[str, Any] | None = None
    """What the TLS layer verified, as ssl.getpeercert gives it."""


Policy = Callable[[Caller], None]


class BearerToken:
    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._tokens = tuple(token.encode() for token in tokens)

    def __call__(self, caller: Caller) -> None:
        scheme, _, token = caller.headers.get("authorization", "").partition(" ")
        given = token.strip().encode()
        # All are compared, each in constant time: the clock must not tell which one is nearly right.
        matches = [hmac.compare_digest(given, known) for known in self._tokens]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized(
                "a bearer token is needed, and this is none that is known"
                if token
                else "a bearer token is needed",
                fix="send the header Authorization: Bearer TOKEN",
            )


def load_policy(config: Config) -> Policy | None:
    """None: everybody may."""
    policies: list[Policy] = []
    if config.token_file:
        try:
            lines = Path(config.token_file).read_text().split()
        except OSError as error:
            raise SettingsError(f"cannot be read: {error.strerror}", where=config.token_file) from error
        if not lines:
            raise SettingsError("it holds no token", where=config.token_file, fix="write one token a line")
        policies.append(BearerToken(tuple(lines)))
    if config.access_policy:
        policies.append(_import(config.access_policy))
    if not policies:
        return None

    def check(caller: Caller) -> None:
        for policy in policies:
            policy(caller)

    return check


def _import(name: str) -> Policy:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"{name!r} cannot be imported: {error}", where="--access-policy", fix="write package.module:name"
        ) from error
    if not callable(found):
        raise SettingsError(f"{name!r} cannot be called", where="--access-policy")
    return found  # type: ignore[no-any-return]


def tls_context(config: Config, protocols: list[str]) -> ssl.SSLContext | None:
    """For both ports; with a client CA, whoever has no certificate of it does not get in."""
    if not config.tls_certificate:
        if config.tls_client_ca:
            raise SettingsError(
                "a client CA without a certificate", fix="set --tls-certificate and --tls-key"
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(protocols)
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key or None)
        if config.tls_client_ca:
            context.load_verify_locations(config.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"the TLS files cannot be used: {error}", where=config.tls_certificate) from error
    return context
