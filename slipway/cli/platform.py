"""What up, down, status and logs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway.cli.output import duration, size, table
from slipway.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from slipway.local import Platform, PlatformStatus

_COLOURS = {"healthy": "green", "unhealthy": "red", "stopped": "yellow"}


def embedded() -> Platform:
    """The embedded platform that the settings name."""
    from slipway.local import Platform
    from slipway.settings import load_settings

    # Without what an earlier up wrote: that may be the very thing to mend.
    settings = load_settings(platform=False)
    if settings.profile != "local":
        raise SettingsError(
            f"the profile is {settings.profile}, and only local has an embedded platform",
            fix="set SLIPWAY_PROFILE=local, or leave it out",
        )
    return Platform.of(settings)


def summary(status: PlatformStatus) -> RenderableType:
    """The status as a person reads it."""
    from rich.console import Group
    from rich.text import Text

    rows = [
        (
            server.name,
            f"{server.software} {server.version or ''}".strip(),
            Text(server.state, style=_COLOURS[server.state]),
            server.endpoint,
            size(server.size_bytes),
            size(server.memory_bytes),
            duration(server.uptime_seconds),
            server.pid,
        )
        for server in status.servers
    ]
    tracking = status.tracking
    kept = Text("in a file", style="green")
    rows.append(("tracking", "MLflow", kept, tracking.uri, size(tracking.size_bytes), None, None, None))
    columns = ("server", "software", "state", "address", "data", "memory", "up for", "process")
    notes = [f"{server.name}: {server.problem}" for server in status.servers if server.problem]
    footer = f"home {status.home}; bucket {status.bucket}; {size(status.disk_free_bytes)} free on the disk"
    return Group(table(columns, rows), *notes, footer)
