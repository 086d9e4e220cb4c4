"""Real requests to the embedded servers: a signed S3 request, and a PING with the password.

Written out here, because boto3 and redis-py cost 0.6 s of start-up for one request each, and `slipway up`
that has nothing to do should take less than that.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from typing import BinaryIO

from slipway.local.ports import HOST

REGION = "us-east-1"
ProtocolError = http.client.HTTPException


@dataclass(frozen=True, slots=True)
class S3Answer:
    status: int
    headers: Message
    body: bytes


def s3_request(
    port: int,
    access_key: str,
    secret_key: str,
    method: str,
    path: str,
    *,
    query: str = "",
    body: bytes = b"",
    unsigned: Mapping[str, str] | None = None,
    timeout: float = 5.0,
) -> S3Answer:
    """One request signed with Signature Version 4.

    `path` and `query` come encoded, the query sorted as `name=value`; `unsigned` headers travel along.
    """
    moment = datetime.now(UTC)
    stamp, day = moment.strftime("%Y%m%dT%H%M%SZ"), moment.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": f"{HOST}:{port}", "x-amz-content-sha256": digest, "x-amz-date": stamp}
    signed = ";".join(headers)
    canonical = "\n".join(
        (method, path, query, *(f"{name}:{value}" for name, value in headers.items()), "", signed, digest)
    )
    scope = f"{day}/{REGION}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{secret_key}".encode()
    for part in (day, REGION, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        target = f"{path}?{query}" if query else path
        connection.request(method, target, body=body, headers={**headers, **(unsigned or {})})
        response = connection.getresponse()
        return S3Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def valkey_commands(port: int, password: str, *commands: str, timeout: float = 5.0) -> list[str]:
    """The answers to AUTH and to each command; an error answer stands as it came, with its minus sign."""
    lines = [f"AUTH {password}", *commands]
    with socket.create_connection((HOST, port), timeout=timeout) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in lines).encode())
        with connection.makefile("rb") as stream:
            return [_read_answer(stream) for _ in lines]


def _read_answer(stream: BinaryIO) -> str:
    head = stream.readline()
    if not head.endswith(b"\r\n"):
        raise ConnectionError("the connection ended in the middle of an answer")
    text = head[:-2].decode()
    if not text.startswith("$"):
        return text
    length = int(text[1:])
    return "" if length < 0 else stream.read(length + 2)[:length].decode()
