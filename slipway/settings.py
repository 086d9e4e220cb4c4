"""One Settings object for all parts, from one typed source.

A setting comes from the first of these that has it:

1. the environment: `SLIPWAY_S3_ENDPOINT` sets `s3.endpoint`;
2. `slipway.toml` in the current folder, or the file that `SLIPWAY_CONFIG` names;
3. for the profile `local`: what `slipway up` wrote into the state folder (addresses and credentials);
4. the profile's defaults;
5. for the region of S3: what AWS's tools go by (AWS_REGION, AWS_DEFAULT_REGION, ~/.aws/config);
6. the defaults below.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from slipway import aws
from slipway.errors import SettingsError

PREFIX = "SLIPWAY_"
CONFIG_FILE = "slipway.toml"
CONNECTION_FILE = "connection.json"
"""Written into the state folder by `slipway up`, readable by its owner alone."""

Profile = Literal["local", "kind", "eks"]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    def __repr__(self) -> str:
        # Settings land in logs and tracebacks; keys and passwords must not.
        fields = ((field.name, getattr(self, field.name)) for field in msgspec.structs.fields(self))
        shown = (f"{name}={_without_secret(name, value)!r}" for name, value in fields)
        return f"{type(self).__name__}({', '.join(shown)})"


def _without_secret(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return "***" if name == "secret_key" else re.sub(r"(://[^/@]*:)[^@/]*@", r"\1***@", value)


class S3(_Section, frozen=True, forbid_unknown_fields=True):
    endpoint: str | None = None
    """None: AWS itself."""
    region: str = "us-east-1"
    """Where nobody says another: see `load_settings`."""
    access_key: str | None = None
    """None: the standard AWS chain (environment, profile, IRSA)."""
    secret_key: str | None = None
    session_token: str | None = None
    """Goes with the keys when they are temporary ones."""
    bucket: str = "slipway"
    connect_timeout: float = 3.0
    read_timeout: float = 30.0
    attempts: int = 4


class Online(_Section, frozen=True, forbid_unknown_fields=True):
    url: str = "redis://127.0.0.1:6379/0"
    """redis:// or rediss://, with the password in it."""
    timeout: float = 0.25
    """Seconds for one read; a slower store counts as dead for that request."""
    cluster: bool = False


class Features(_Section, frozen=True, forbid_unknown_fields=True):
    registry: str = "sqlite:///.slipway/feast.db"
    """SQLAlchemy URL. Never a file on S3: concurrent applies lose each other's work there."""
    repository: str = "feature_repo"
    project: str = "slipway"
    """Feast's name space: registry entries and online keys of another project stay untouched."""
    clock: str = "wall"
    """`wall`, or an RFC 3339 time: the now of TTLs when a recorded year is replayed."""


class Tracking(_Section, frozen=True, forbid_unknown_fields=True):
    uri: str = "sqlite:///.slipway/mlflow.db"
    experiment: str = "slipway"


class Pipelines(_Section, frozen=True, forbid_unknown_fields=True):
    url: str | None = None
    """The KFP API; None runs pipelines in this process tree."""
    namespace: str = "slipway"
    """Where runs go in a KFP that tells users apart."""
    token: str | None = None
    """For an API that wants one: it goes along as `Authorization: Bearer`."""
    cookies: str | None = None
    """Of a session at the gateway before it, as `name=value; name=value`."""
    ca_file: str | None = None
    """Certificates to trust it by, where it is not one of the system's."""
    image: str = "slipway-components:dev"
    """Named by digest on a cluster: KFP caches by the name."""


class Serving(_Section, frozen=True, forbid_unknown_fields=True):
    namespace: str = "slipway"
    url: str = "http://127.0.0.1:8080"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    profile: Profile = "local"
    home: str = ".slipway"
    """The embedded platform's state folder."""
    s3: S3 = S3()
    online: Online = Online()
    features: Features = Features()
    tracking: Tracking = Tracking()
    pipelines: Pipelines = Pipelines()
    serving: Serving = Serving()

    def uri(self, *parts: str) -> str:
        """An S3 address in our bucket: `settings.uri("models", name)`."""
        return "s3://" + "/".join((self.s3.bucket, *(part.strip("/") for part in parts)))


# What a profile sets differently; addresses are those of the manifests.
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "local": {},
    "kind": {
        "s3": {"endpoint": "http://seaweedfs.slipway.svc:8333"},
        "online": {"url": "redis://valkey.slipway.svc:6379/0"},
        "tracking": {"uri": "http://mlflow.slipway.svc:5000"},
        "pipelines": {"url": "http://ml-pipeline.kubeflow.svc:8888"},
    },
    "eks": {
        "online": {"url": "rediss://valkey.slipway.svc:6379/0"},
        "tracking": {"uri": "http://mlflow.slipway.svc:5000"},
        "pipelines": {"url": "http://ml-pipeline.kubeflow.svc:8888"},
    },
}

_SECTIONS = {
    field.name: field.type
    for field in msgspec.structs.fields(Settings)
    if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
}
# Variables with our prefix that are not settings.
_NOT_SETTINGS = {"SLIPWAY_CONFIG", "SLIPWAY_RUN_EVENTS", "SLIPWAY_RUN_OWNER"}
# Options of the ONNX runtime, which reads them itself.
_RUNTIME_PREFIX = "SLIPWAY_RUNTIME_"
# Kubernetes puts these into every pod for a Service whose name begins with "slipway-".
_SERVICE_LINK = re.compile(r"_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")


def load_settings(
    environment: Mapping[str, str] | None = None,
    *,
    directory: str | os.PathLike[str] | None = None,
    platform: bool = True,
) -> Settings:
    """Settings as this process should see them; `directory` stands in for the current folder.

    Without `platform`, what `slipway up` wrote is left out.
    """
    environ = os.environ if environment is None else environment
    here = Path.cwd() if directory is None else Path(directory)
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("the environment", _from_environment(environ)),
        _from_file(environ, here),
    ]
    profile = _first(layers, "profile") or "local"
    home = here / (_first(layers, "home") or ".slipway")
    if profile == "local":
        if platform:
            layers.append(_from_platform(home))
        layers.append(
            (
                "defaults",
                {
                    "features": {"registry": f"sqlite:///{home / 'feast.db'}"},
                    "tracking": {"uri": f"sqlite:///{home / 'mlflow.db'}"},
                },
            )
        )
    layers.append((f"profile {profile}", PROFILES.get(profile, {})))
    if region := aws.region(environ):
        layers.append(("the AWS configuration", {"s3": {"region": region}}))

    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, values in layers:
        _merge(merged, sources, source, values)
    merged["home"] = str(home)
    try:
        return msgspec.convert(merged, Settings)
    except msgspec.ValidationError as error:
        raise _explain(error, sources) from error


def as_environment(settings: Settings) -> dict[str, str]:
    """The variables that give another process these settings, in whatever folder it runs; secrets too."""
    values = msgspec.to_builtins(settings)
    flat = {f"{name}_{field}": value for name in _SECTIONS for field, value in values[name].items()}
    flat |= {"profile": settings.profile, "home": str(Path(settings.home).absolute())}
    return {
        PREFIX + name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in flat.items()
        if value is not None
    }


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable.startswith(_RUNTIME_PREFIX):
            continue
        if variable in _NOT_SETTINGS or _SERVICE_LINK.search(variable):
            continue
        name = variable.removeprefix(PREFIX).lower()
        section, _, field = name.partition("_")
        if section in _SECTIONS and field:
            values.setdefault(section, {})[field] = _typed(_SECTIONS[section], field, text, variable)
        elif name in ("profile", "home"):
            values[name] = text
        else:
            raise SettingsError(
                f"there is no setting {variable}",
                where="the environment",
                fix=f"unset it, or use one of: {', '.join(sorted(_all_variables()))}",
            )
    return values


def _typed(section: type[msgspec.Struct], field: str, text: str, variable: str) -> Any:
    """The environment has text only: read it as the type of its field."""
    kinds = {item.name: item.type for item in msgspec.structs.fields(section)}
    if field not in kinds:
        group = variable[: -len(field)]
        raise SettingsError(
            f"there is no setting {variable}",
            where="the environment",
            fix=f"use one of: {', '.join(group + name.upper() for name in sorted(kinds))}",
        )
    try:
        return msgspec.convert(text, kinds[field], strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{variable}={text!r}: {error}", where="the environment") from error


def _all_variables() -> list[str]:
    nested = [
        f"{PREFIX}{section}_{field.name}".upper()
        for section, kind in _SECTIONS.items()
        for field in msgspec.structs.fields(kind)
    ]
    return [f"{PREFIX}PROFILE", f"{PREFIX}HOME", f"{PREFIX}CONFIG", *nested]


def _from_file(environ: Mapping[str, str], here: Path) -> tuple[str, Mapping[str, Any]]:
    named = environ.get("SLIPWAY_CONFIG")
    path = here / (named or CONFIG_FILE)
    try:
        return str(path), tomllib.loads(path.read_text())
    except FileNotFoundError:
        if named is None:
            return str(path), {}
        raise SettingsError(
            "SLIPWAY_CONFIG names a file that is not there", where=str(path), fix="make it, or unset it"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"not readable as TOML: {error}", where=str(path)) from error
    except OSError as error:
        raise SettingsError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _from_platform(home: Path) -> tuple[str, Mapping[str, Any]]:
    path = home / CONNECTION_FILE
    try:
        return str(path), msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return str(path), {}
    except msgspec.MsgspecError as error:
        raise SettingsError(
            f"damaged: {error}", where=str(path), fix="run `slipway up`, which writes it anew"
        ) from error
    except OSError as error:
        raise SettingsError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _first(layers: list[tuple[str, Mapping[str, Any]]], name: str) -> Any:
    return next((values[name] for _, values in layers if name in values), None)


def _merge(merged: dict[str, Any], sources: dict[str, str], source: str, values: Mapping[str, Any]) -> None:
    """Fill what `merged` has not got yet, and remember where each value came from."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            section = merged.setdefault(name, {})
            for field, inner in value.items():
                if field not in section:
                    section[field] = inner
                    sources[f"{name}.{field}"] = source
        elif name in _SECTIONS:
            raise SettingsError(
                f"{name} holds settings of its own, and stands here as {value!r}",
                where=source,
                fix=f"write a table: [{name}]",
            )
        elif name not in merged:
            merged[name] = value
            sources[name] = source


def _explain(error: msgspec.ValidationError, sources: Mapping[str, str]) -> SettingsError:
    text, _, place = str(error).partition(" - at `$")
    path = place.strip("`").lstrip(".")
    if "unknown field" in text:
        field = text.split("`")[1]
        path = f"{path}.{field}" if path else field
        kind = _SECTIONS.get(path.split(".")[0], Settings) if "." in path else Settings
        allowed = ", ".join(item.name for item in msgspec.structs.fields(kind))
        return SettingsError(
            f"there is no setting {path}", where=sources.get(path), fix=f"use one of: {allowed}"
        )
    fix = "use one of: local, kind, eks" if path == "profile" else None
    return SettingsError(f"setting {path}: {text}", where=sources.get(path), fix=fix)
