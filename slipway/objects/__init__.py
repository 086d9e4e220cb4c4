"""S3, on any endpoint: verified reads, conditional writes, and prefixes that appear whole or not at all."""

from slipway.objects.address import Address, parse_address
from slipway.objects.client import make_client
from slipway.objects.publish import Publication, publish
from slipway.objects.store import ObjectInfo, ObjectStore, Progress, file_digest

__all__ = [
    "Address",
    "ObjectInfo",
    "ObjectStore",
    "Progress",
    "Publication",
    "file_digest",
    "make_client",
    "parse_address",
    "publish",
]
