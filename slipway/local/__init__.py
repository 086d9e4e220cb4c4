"""The embedded platform: real servers for S3 and the online store on this machine, without Docker.

from slipway.local import Platform

platform = Platform(".slipway")
platform.up()       # a second up is a no-op; data survives down and up
platform.status()   # typed: health by real requests, ports, sizes, versions
platform.down()
"""

from __future__ import annotations

from slipway.local.platform import Platform
from slipway.local.status import PlatformStatus, ServerStatus, TrackingStatus

__all__ = ["Platform", "PlatformStatus", "ServerStatus", "TrackingStatus"]
