"""The model registry: numbered versions of immutable prefixes, two aliases, and a record of every move.

MLflow keeps it, on whatever database the tracking URI names. A version is a label for a digest: registering
the same digest again gives the same version. `challenger` is the newest version that passed its gates,
`champion` the one that serves. Every move of an alias is recorded before it is made, with who, when and why.
"""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from slipway.errors import ApprovalMissing, RegistryError
from slipway.settings import Settings
from slipway.tracking import open_client

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHALLENGER = "challenger"
CHAMPION = "champion"

_DIGEST = "slipway.digest"
_FILES = "slipway.files"
_APPROVAL = "slipway.approval"
_MOVE = "slipway.move."


class Approval(msgspec.Struct, frozen=True):
    who: str
    when: str
    why: str


class Move(msgspec.Struct, frozen=True):
    """One move of an alias; `source` is None where the alias stood nowhere before."""

    alias: str
    source: int | None
    target: int
    who: str
    when: str
    why: str


class ModelVersion(msgspec.Struct, frozen=True):
    name: str
    version: int
    digest: str
    uri: str
    run_id: str
    created: str
    files: Mapping[str, str] = {}
    """Name → SHA-256 of each file below `uri`, of which the digest is made."""
    aliases: tuple[str, ...] = ()
    approval: Approval | None = None


class Registry:
    """The registry that the settings name. Safe for several processes at once."""

    def __init__(self, settings: Settings) -> None:
        self._uri = settings.tracking.uri
        self._needs_approval = settings.profile != "local"
        self._client_made: MlflowClient | None = None

    def names(self) -> list[str]:
        with self._translated("models"):
            return sorted(model.name for model in self._client.search_registered_models())

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions, the newest first."""
        with self._translated(name):
            model = self._client.get_registered_model(name)
            found = self._client.search_model_versions(f"name = '{_checked(name)}'")
        aliases = {alias: int(version) for alias, version in model.aliases.items()}
        versions = sorted((_read_version(item, aliases) for item in found), key=lambda item: -item.version)
        # Two that register one digest at once both get a number; the higher is withdrawn, at the latest here.
        first = {item.digest: item.version for item in versions}
        return [item for item in versions if first[item.digest] == item.version]

    def find(self, name: str, which: str) -> ModelVersion:
        """A version by alias, number, or digest (or the beginning of one)."""
        versions = self.versions(name)
        chosen = [
            item
            for item in versions
            if which in item.aliases or which == str(item.version) or _is_prefix(which, item.digest)
        ]
        if len(chosen) == 1:
            return chosen[0]
        known = ", ".join(f"{item.version} ({item.digest[:12]})" for item in versions)
        problem = "more than one version" if chosen else "no version"
        raise RegistryError(
            f"{which!r} names {problem} of {name}",
            where=self._uri,
            fix=f"use an alias, a number or a digest; it has {known or 'none'}",
        )

    def alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that an alias stands on, None where it stands nowhere or the model is unknown."""
        if name not in self.names():
            return None
        return next((item for item in self.versions(name) if alias in item.aliases), None)

    def champion(self, name: str) -> ModelVersion | None:
        return self.alias(name, CHAMPION)

    def challenger(self, name: str) -> ModelVersion | None:
        return self.alias(name, CHALLENGER)

    def register(
        self,
        name: str,
        *,
        digest: str,
        uri: str,
        run_id: str,
        files: Mapping[str, str] | None = None,
        who: str | None = None,
        why: str,
    ) -> ModelVersion:
        """The version of this digest, made if there is none, with the alias `challenger` on it."""
        from mlflow.exceptions import MlflowException

        with self._translated(name):
            try:
                self._client.create_registered_model(_checked(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        known = next((item for item in self.versions(name) if item.digest == digest), None)
        if known is None:
            known = self._create(name, digest, uri, run_id, files or {})
        self.move(CHALLENGER, known, who=who, why=why)
        return self.find(name, str(known.version))

    def _create(
        self, name: str, digest: str, uri: str, run_id: str, files: Mapping[str, str]
    ) -> ModelVersion:
        with self._translated(name):
            made = self._client.create_model_version(
                name,
                source=uri,
                run_id=run_id or None,
                tags={_DIGEST: digest, _FILES: msgspec.json.encode(files).decode()},
            )
        standing = next(item for item in self.versions(name) if item.digest == digest)
        if standing.version != int(made.version):
            with self._translated(name):
                self._client.delete_model_version(name, made.version)
        return standing

    def approve(self, version: ModelVersion, *, who: str | None = None, why: str) -> ModelVersion:
        """Allow a version to serve in production, by name."""
        approval = Approval(who=_who(who), when=_now(), why=_why(why))
        with self._translated(version.name):
            self._client.set_model_version_tag(
                version.name, str(version.version), _APPROVAL, msgspec.json.encode(approval).decode()
            )
        return self.find(version.name, str(version.version))

    def check_approved(self, version: ModelVersion) -> None:
        """Pass where the profile needs no approval or the version has one."""
        if self._needs_approval and version.approval is None:
            raise ApprovalMissing(
                f"{version.name} version {version.version} has no approval",
                where=self._uri,
                fix=f"slipway models approve {version.name} {version.version} --why '…'",
            )

    def promote(self, version: ModelVersion, *, who: str | None = None, why: str) -> Move | None:
        """Make this version the champion; None if it is. Deploying it comes first: see components/deploy."""
        self.check_approved(version)
        return self.move(CHAMPION, version, who=who, why=why)

    def move(self, alias: str, version: ModelVersion, *, who: str | None = None, why: str) -> Move | None:
        """Put an alias on a version and record it; None, and no record, if it stands there already."""
        standing = self.alias(version.name, alias)
        if standing is not None and standing.version == version.version:
            return None
        move = Move(
            alias=alias,
            source=standing.version if standing else None,
            target=version.version,
            who=_who(who),
            when=_now(),
            why=_why(why),
        )
        # One tag a move: nothing is rewritten, so that two movers at once lose no record.
        with self._translated(version.name):
            self._client.set_registered_model_tag(
                version.name,
                # MLflow's keys take no plus sign, and the time is UTC as it is.
                f"{_MOVE}{move.when.removesuffix('+00:00')}.{uuid.uuid4().hex[:8]}",
                msgspec.json.encode(move).decode(),
            )
            self._set_alias(version, alias)
        return move

    def _set_alias(self, version: ModelVersion, alias: str) -> None:
        """MLflow looks whether the alias is there and then inserts: of two at once one is refused, and may
        try again, for then it is there."""
        from mlflow.exceptions import MlflowException

        for last in (False, False, True):
            try:
                self._client.set_registered_model_alias(version.name, alias, str(version.version))
            except MlflowException as error:
                raced = any(told in error.message for told in ("UNIQUE constraint", "duplicate key"))
                if last or not raced:
                    raise
            else:
                return

    def history(self, name: str) -> list[Move]:
        """Every move of an alias, the newest first."""
        with self._translated(name):
            tags = self._client.get_registered_model(name).tags
        keys = sorted((key for key in tags if key.startswith(_MOVE)), reverse=True)
        return [msgspec.json.decode(tags[key], type=Move) for key in keys]

    def former_champion(self, name: str) -> ModelVersion:
        """The champion before this one: where a rollback goes."""
        standing = self.champion(name)
        moves = [move for move in self.history(name) if move.alias == CHAMPION and move.source is not None]
        former = next((move.source for move in moves if standing and move.target == standing.version), None)
        if former is None:
            raise RegistryError(
                f"{name} has no champion before the present one",
                where=self._uri,
                fix="promote a version: `slipway models show` lists them",
            )
        return self.find(name, str(former))

    @property
    def _client(self) -> MlflowClient:
        if self._client_made is None:
            self._client_made = open_client(self._uri)
        return self._client_made

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except SQLAlchemyError as error:
            raise RegistryError(
                f"the database cannot be used: {error}",
                where=self._uri,
                fix="see that the tracking URI names a database of MLflow that this account may write",
            ) from error
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise RegistryError(
                    f"the registry does not know {name}",
                    where=self._uri,
                    fix="`slipway models list` shows what it has",
                ) from error
            raise RegistryError(error.message, where=self._uri) from error


def _read_version(item: Any, aliases: dict[str, int]) -> ModelVersion:
    approval = item.tags.get(_APPROVAL)
    number = int(item.version)
    return ModelVersion(
        name=item.name,
        version=number,
        digest=item.tags.get(_DIGEST, ""),
        uri=item.source,
        run_id=item.run_id or "",
        files=msgspec.json.decode(item.tags.get(_FILES, "{}"), type=dict[str, str]),
        created=datetime.fromtimestamp(item.creation_timestamp / 1000, UTC).isoformat(),
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == number)),
        approval=msgspec.json.decode(approval, type=Approval) if approval else None,
    )


def _is_prefix(which: str, digest: str) -> bool:
    # Shorter ones would be taken for numbers, and would soon not be unique.
    return len(which) >= 7 and digest.startswith(which)


def _checked(name: str) -> str:
    if "'" in name or "/" in name or ":" in name:
        raise RegistryError(
            f"{name!r} is no model name",
            fix="use letters, digits, dashes and underscores: it names a prefix on S3",
        )
    return name


def _who(who: str | None) -> str:
    return who or getpass.getuser()


def _why(why: str) -> str:
    if not why.strip():
        raise RegistryError(
            "a reason is needed", fix="say why: it stands in the record for those who come after"
        )
    return why


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
