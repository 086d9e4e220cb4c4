"""What the readers of the online store share: its address, its greeting, its commands, its errors.

The serving image has no redis-py: hiredis, the C parser under it, is enough, and a command costs less.
"""

from __future__ import annotations

import ssl
from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from slipway.errors import FeatureError, OnlineStoreUnavailable, SettingsError

SLOTS = 16384
KEYS_A_COMMAND = 5_000
"""Of one MGET: more would hold up the other clients of the server."""
_pack: Any = hiredis.pack_command
Reply = bytes | None


class ServerRefused(Exception):
    """An error that the server answered with."""


def parser() -> Any:
    return hiredis.Reader(replyError=ServerRefused, protocolError=ConnectionError)


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    user: str | None = None
    password: str | None = None
    database: int = 0
    tls: tuple[tuple[str, str], ...] | None = None
    """The URL's TLS options; None: no TLS."""

    def __str__(self) -> str:
        return f"online store {self.host}:{self.port}"

    def at(self, host: str, port: int) -> Address:
        """Another node of the same cluster."""
        return Address(host or self.host, port, self.user, self.password, self.database, self.tls)

    def context(self) -> ssl.SSLContext | None:
        if self.tls is None:
            return None
        options = dict(self.tls)
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if options.get("ssl_check_hostname", "true").lower() in ("false", "0", "no"):
            context.check_hostname = False
        if options.get("ssl_cert_reqs", "required").lower() == "none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        return context

    def greeting(self) -> list[bytes]:
        """What a new connection says before anything else; each is answered once."""
        commands: list[tuple[Any, ...]] = []
        if self.password is not None:
            commands.append(("AUTH", *([self.user] if self.user else []), self.password))
        if self.database:
            commands.append(("SELECT", str(self.database)))
        commands.append(("PING",))
        return [_pack(command) for command in commands]


def parse_url(url: str) -> Address:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "valkey", "valkeys"):
        raise SettingsError(
            f"online.url begins with {parts.scheme!r}", fix="use redis://host:port/0, or rediss:// for TLS"
        )
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    try:
        port = parts.port or 6379
        database = int(parts.path.strip("/") or query.get("db", "0"))
    except ValueError as error:
        raise SettingsError(f"online.url is not usable: {error}", where=str(parts.hostname)) from error
    return Address(
        host=parts.hostname or "127.0.0.1",
        port=port,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password is not None else None,
        database=database,
        tls=tuple(sorted(query.items())) if parts.scheme in ("rediss", "valkeys") else None,
    )


def pack_mgets(keys: Sequence[bytes]) -> list[bytes]:
    """One command for up to KEYS_A_COMMAND keys."""
    if len(keys) <= KEYS_A_COMMAND:
        return [_pack(("MGET", *keys))]
    starts = range(0, len(keys), KEYS_A_COMMAND)
    return [_pack(("MGET", *keys[start : start + KEYS_A_COMMAND])) for start in starts]


def join_replies(replies: Sequence[Any], address: Address) -> list[Reply]:
    """The values that these commands were answered with, in the order of their keys."""
    for reply in replies:
        if isinstance(reply, ServerRefused):
            raise refused(address, reply)
    return replies[0] if len(replies) == 1 else [item for reply in replies for item in reply]


def pack_gets(keys: Sequence[bytes]) -> bytes:
    """For a cluster, where one MGET may not span hash slots; pipelined they still take one round trip."""
    return b"".join([b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key) for key in keys])


CLUSTER_SLOTS = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"
ASKING = b"*1\r\n$6\r\nASKING\r\n"


def key_slot(key: bytes) -> int:
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    # Redis' CRC16 is the XMODEM one, which the standard library has in C.
    return crc_hqx(key, 0) % SLOTS


def slot_table(reply: Sequence[Any], address: Address) -> list[Address | None]:
    """Which node serves each hash slot, from this node's answer to CLUSTER SLOTS."""
    table: list[Address | None] = [None] * SLOTS
    for first, last, primary, *_ in reply:
        node = address.at(_host(primary[0]), int(primary[1]))
        table[first : last + 1] = [node] * (last - first + 1)
    return table


def sent_elsewhere(refusal: ServerRefused, node: Address) -> tuple[str, Address | None]:
    """MOVED or ASK and the node that has the key, as this node answers; None: it is another refusal."""
    word, *rest = str(refusal).split()
    if word not in ("MOVED", "ASK"):
        return word, None
    host, _, port = rest[1].rpartition(":")
    return word, node.at(_host(host.encode()), int(port))


def _host(named: bytes | None) -> str:
    """Empty where a node does not know its own, which is then that of the one who says so."""
    return "" if named in (None, b"?") else named.decode()


def unavailable(address: Address, why: str, *, fix: str | None = None) -> OnlineStoreUnavailable:
    return OnlineStoreUnavailable(
        why,
        where=str(address),
        fix=fix or "run `slipway up`, or set online.url to a Valkey or Redis that runs",
    )


def late(address: Address, timeout: float) -> OnlineStoreUnavailable:
    return unavailable(
        address, f"no answer within {timeout:g} s", fix="see whether it is overloaded or stopped"
    )


def refused(address: Address, error: ServerRefused, *, in_cluster: bool = False) -> FeatureError:
    text = str(error)
    if text.startswith("CLUSTERDOWN") and in_cluster:
        return unavailable(
            address,
            f"a part of the cluster is not served: {text}",
            fix="wait until a replica has taken over, or see `CLUSTER INFO`",
        )
    for words, what, fix in _REFUSALS:
        if text.startswith(words):
            return unavailable(address, f"{what}: {text}", fix=fix)
    return FeatureError(f"the server refused: {text}", where=str(address))


NOT_PERMITTED_FIX = "grant its user the commands that docs/online-store.md lists, on keys of slipway:*"
FULL_FIX = (
    "raise its maxmemory, or delete what is not needed; let it evict nothing (maxmemory-policy noeviction)"
)
READ_ONLY_FIX = "let online.url name the primary; replicas serve readers only"
_REFUSALS = (
    (("WRONGPASS", "NOAUTH"), "refused us", "set the user and password in online.url"),
    (("NOPERM",), "refused us", NOT_PERMITTED_FIX),
    (("MOVED", "CROSSSLOT", "CLUSTERDOWN"), "is part of a cluster", "set online.cluster = true"),
    (("LOADING", "BUSY", "MASTERDOWN"), "is not ready", "wait until it has loaded its data"),
    (
        ("ERR max number of clients",),
        "takes no more connections",
        "raise its maxclients, or have fewer clients",
    ),
)


def again(error: FeatureError) -> FeatureError:
    """A copy: one exception raised to many would gather the tracebacks of all."""
    return type(error)(error.what, where=error.where, fix=error.fix)
