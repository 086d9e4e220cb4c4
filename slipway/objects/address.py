"""Where an object lives: `s3://bucket/key`."""

from __future__ import annotations

from typing import NamedTuple

from slipway.errors import ObjectError


class Address(NamedTuple):
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def directory(self) -> Address:
        """The same place as a directory: `v1` becomes `v1/`, and so never takes `v10`."""
        if self.key and not self.key.endswith("/"):
            return Address(self.bucket, self.key + "/")
        return self


def parse_address(uri: str) -> Address:
    scheme, separator, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not separator or scheme != "s3" or not bucket:
        raise ObjectError(f"{uri!r} is not an S3 address", fix="write it as s3://bucket/key")
    return Address(bucket, key)
