"""Reading and writing objects: what arrives is what was written, or an error says so."""

from __future__ import annotations

import hashlib
import mimetypes
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from slipway.errors import ObjectConflict, ObjectCorrupt, ObjectError, ObjectNotFound, ObjectStoreUnavailable
from slipway.objects.address import Address, parse_address
from slipway.objects.client import make_client, translated
from slipway.settings import S3, Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Progress = Callable[[int], None]
"""Called with the number of bytes that were moved since the last call."""

CHUNK = 1 << 20
PART = 16 << 20
"""Files above this size go up in parts of it."""
ONE_PIECE = 5 << 30
"""The most that S3 takes in one request."""
_DIGEST = "slipway-sha256"
_WRITER = "slipway-write"


class ObjectInfo(msgspec.Struct, frozen=True):
    uri: str
    size: int
    etag: str
    digest: str | None = None
    """SHA-256 in hex, as the writer told it; None for objects that Slipway did not write."""
    version: str | None = None


class ObjectStore:
    """S3 for one set of settings. Safe between threads."""

    def __init__(self, settings: S3, *, client: S3Client | None = None) -> None:
        self._settings = settings
        self._client = client if client is not None else make_client(settings)

    @classmethod
    def from_settings(cls, settings: Settings) -> ObjectStore:
        return cls(settings.s3)

    def head(self, uri: str) -> ObjectInfo | None:
        """What is known of an object, or None where there is none."""
        place = parse_address(uri)
        try:
            with self._translated(uri):
                answer = self._client.head_object(Bucket=place.bucket, Key=place.key)
        except ObjectNotFound:
            return None
        return _info(place, answer, answer["ContentLength"])

    def get(self, uri: str, *, digest: str | None = None) -> bytes:
        """The whole object, its digest checked: against `digest`, or else against what its writer told."""
        chunks: list[bytes] = []
        self._read(uri, chunks.append, digest)
        return b"".join(chunks)

    def download(
        self,
        uri: str,
        path: str | os.PathLike[str],
        *,
        digest: str | None = None,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        """Stream an object into a file, which appears under its name only when it is whole and verified."""
        target = Path(path)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:

                def take(chunk: bytes) -> None:
                    file.write(chunk)
                    if progress is not None:
                        progress(len(chunk))

                info = self._read(uri, take, digest)
            partial.replace(target)
        except OSError as error:
            raise ObjectError(
                f"cannot write {target}: {error.strerror}",
                where=uri,
                fix="free space there, or choose another place",
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return info

    def put(
        self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        """Write an object whole. With a condition, ObjectConflict tells that somebody else was first."""
        return self._write(uri, data, hashlib.sha256(data).hexdigest(), len(data), if_absent, if_match)

    def upload(
        self,
        uri: str,
        path: str | os.PathLike[str],
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        """Stream a file up; above 16 MiB in parts, which become visible together or not at all.

        With a condition it goes up in one piece: not every server judges the condition of an upload in parts
        atomically (of eight at once SeaweedFS 4.48 let three win; in one piece always one).
        """
        source = Path(path)
        try:
            size = source.stat().st_size
            digest = file_digest(source)
            with source.open("rb") as file:
                conditional = if_absent or if_match is not None
                if size > (ONE_PIECE if conditional else PART):
                    return self._write_parts(uri, file, digest, size, if_absent, if_match, progress)
                info = self._write(uri, file, digest, size, if_absent, if_match)
        except OSError as error:
            raise ObjectError(f"cannot read {source}: {error.strerror}", where=uri) from error
        if progress is not None:
            progress(size)
        return info

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        """All objects below a directory, in order. `…/v1` is `…/v1/`: it never takes `…/v10`.

        A listing carries no digests; `head` does.
        """
        place = parse_address(uri).directory
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=place.key)
        with self._translated(uri):
            for page in pages:
                for item in page.get("Contents", ()):
                    address = Address(place.bucket, item["Key"])
                    yield ObjectInfo(address.uri, item["Size"], item.get("ETag", ""))

    def delete(self, uri: str) -> None:
        """Remove an object; one that is not there is as good as removed."""
        place = parse_address(uri)
        with self._translated(uri):
            self._client.delete_object(Bucket=place.bucket, Key=place.key)

    def _translated(self, uri: str) -> Any:
        return translated(uri, self._settings.endpoint)

    def _read(self, uri: str, take: Callable[[bytes], object], digest: str | None) -> ObjectInfo:
        """Feed the object to `take` chunk by chunk; a connection that breaks is taken up where it broke."""
        place = parse_address(uri)
        hasher = hashlib.sha256()
        received = 0
        info: ObjectInfo | None = None
        failures = 0
        while info is None or received < info.size:
            request: dict[str, Any] = {"Bucket": place.bucket, "Key": place.key}
            if info is not None:
                # The rest must be of the same object, not of one that was written in between.
                request |= {"Range": f"bytes={received}-", "IfMatch": info.etag}
            with self._translated(uri):
                answer = self._client.get_object(**request)
            if info is None:
                info = _info(place, answer, answer["ContentLength"])
                if info.size == 0:
                    break
            try:
                for chunk in answer["Body"].iter_chunks(CHUNK):
                    hasher.update(chunk)
                    take(chunk)
                    received += len(chunk)
            except (BotoCoreError, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the disk, not the network
                failures += 1
                if failures >= self._settings.attempts:
                    raise ObjectStoreUnavailable(
                        f"the answer broke off {failures} times, last after {received} of {info.size} bytes",
                        where=uri,
                        fix="try again later",
                    ) from error
        found = hasher.hexdigest()
        promised = digest or info.digest
        if promised is not None and found != promised:
            raise ObjectCorrupt(
                f"its SHA-256 is {found}, not {promised}",
                where=uri,
                fix="restore the object from its version history, or publish it again",
            )
        return msgspec.structs.replace(info, digest=found)

    def _write(
        self, uri: str, data: bytes | BinaryIO, digest: str, size: int, if_absent: bool, if_match: str | None
    ) -> ObjectInfo:
        place = parse_address(uri)
        writer = uuid.uuid4().hex
        try:
            with self._translated(uri):
                answer = self._client.put_object(
                    Bucket=place.bucket,
                    Key=place.key,
                    Body=data,
                    ContentType=_media_type(place),
                    Metadata={_DIGEST: digest, _WRITER: writer},
                    **_conditions(if_absent, if_match),
                )
        except ObjectConflict as conflict:
            return self._ours_after_all(place, writer, conflict)
        return ObjectInfo(uri, size, answer["ETag"], digest, answer.get("VersionId"))

    def _ours_after_all(self, place: Address, writer: str, conflict: ObjectConflict) -> ObjectInfo:
        """A retried write meets its own first try, whose answer got lost: that is a win, not a conflict."""
        try:
            with self._translated(place.uri):
                answer = self._client.head_object(Bucket=place.bucket, Key=place.key)
        except ObjectNotFound:
            raise conflict from None
        if answer.get("Metadata", {}).get(_WRITER) != writer:
            raise conflict
        return _info(place, answer, answer["ContentLength"])

    def _write_parts(
        self,
        uri: str,
        file: BinaryIO,
        digest: str,
        size: int,
        if_absent: bool,
        if_match: str | None,
        progress: Progress | None,
    ) -> ObjectInfo:
        place = parse_address(uri)
        writer = uuid.uuid4().hex
        where: dict[str, Any] = {"Bucket": place.bucket, "Key": place.key}
        # S3 takes 10,000 parts at most.
        part_size = max(PART, -(-size // 10_000))
        with self._translated(uri):
            upload = self._client.create_multipart_upload(
                **where, ContentType=_media_type(place), Metadata={_DIGEST: digest, _WRITER: writer}
            )["UploadId"]
            try:
                parts: list[dict[str, Any]] = []
                while chunk := file.read(part_size):
                    number = len(parts) + 1
                    part = self._client.upload_part(**where, UploadId=upload, PartNumber=number, Body=chunk)
                    parts.append({"PartNumber": number, "ETag": part["ETag"]})
                    if progress is not None:
                        progress(len(chunk))
                answer = self._client.complete_multipart_upload(
                    **where,
                    UploadId=upload,
                    MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
                    **_conditions(if_absent, if_match),
                )
            except BaseException as error:
                self._abort(where, upload)
                if isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in (
                    "PreconditionFailed",
                    "NoSuchUpload",
                ):
                    return self._ours_after_all(
                        place, writer, ObjectConflict("somebody else wrote it first", where=uri)
                    )
                raise
        return ObjectInfo(uri, size, answer["ETag"], digest, answer.get("VersionId"))

    def _abort(self, where: dict[str, Any], upload: str) -> None:
        try:
            self._client.abort_multipart_upload(**where, UploadId=upload)
        except (BotoCoreError, ClientError):
            # The bucket's lifecycle rule sweeps what cannot be aborted now; the first error is to be told.
            return


def file_digest(path: str | os.PathLike[str]) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _media_type(place: Address) -> str:
    return mimetypes.guess_type(place.key)[0] or "application/octet-stream"


def _conditions(if_absent: bool, if_match: str | None) -> dict[str, Any]:
    if if_absent:
        return {"IfNoneMatch": "*"}
    return {} if if_match is None else {"IfMatch": if_match}


def _info(place: Address, answer: Any, size: int) -> ObjectInfo:
    digest = answer.get("Metadata", {}).get(_DIGEST)
    return ObjectInfo(place.uri, size, answer["ETag"], digest, answer.get("VersionId"))
