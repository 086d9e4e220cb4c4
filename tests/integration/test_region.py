"""The region and the credentials of AWS's own files and variables, in each of the clients that we have."""

from __future__ import annotations

import http.server
import io
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from serving.runtime.storage import open_storage
from slipway.errors import FeatureSourceError, ObjectError, ObjectStoreUnavailable, SlipwayError
from slipway.objects import ObjectStore
from slipway.settings import Settings, load_settings
from tests.offline_store import OURS, historical, repo_config, view

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
FIX = "set SLIPWAY_S3_REGION, or AWS_REGION, to the region of the bucket"


@pytest.fixture(autouse=True)
def nothing_of_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "SLIPWAY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    # Who finds no keys asks the machine it runs on.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def write_aws(home: Path, access_key: str, secret_key: str) -> None:
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text("[default]\nregion = eu-central-1\n")
    (home / ".aws" / "credentials").write_text(
        f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
    )


def offline(folder: Path, uri: str, store: object = OURS) -> list[float]:
    rows = pl.DataFrame({"key": [1], "event_timestamp": [NOON]})
    table = historical(repo_config(folder, store), [view("v", uri)], rows, ["v:value"]).to_arrow()
    return table["value"].to_pylist()


@pytest.mark.parametrize("region", ["file", "AWS_REGION", "AWS_DEFAULT_REGION", "nobody"])
def test_keys_and_region_of_aws_own_files_do_on_another_s3(
    tmp_path: Path, platform: Settings, monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    write_aws(tmp_path, str(platform.s3.access_key), str(platform.s3.secret_key))
    if region == "nobody":
        (tmp_path / ".aws" / "config").unlink()
    elif region != "file":
        monkeypatch.setenv(region, "ap-south-1")
    monkeypatch.setenv("SLIPWAY_S3_ENDPOINT", str(platform.s3.endpoint))
    ours = load_settings()
    assert ours.s3.access_key is None
    uri = platform.uri("region", region, "h.parquet")
    buffer = io.BytesIO()
    pl.DataFrame({"key": [1], "ts": [NOON], "value": [1.5]}).write_parquet(buffer)
    ObjectStore.from_settings(ours).put(uri, buffer.getvalue())
    assert offline(tmp_path, uri) == [1.5]
    # The runtime's client is small and reads variables, not files.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", str(platform.s3.access_key))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", str(platform.s3.secret_key))
    assert open_storage(uri.removesuffix("/h.parquet")).read("h.parquet") == buffer.getvalue()


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """What S3 says of a bucket that is in another region than the one asked, and who asked for which."""
    scopes: list[str] = []
    body = b"<Error><Code>PermanentRedirect</Code><Message>it is elsewhere</Message></Error>"

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            scopes.append(self.headers["Authorization"].split("/")[2])
            self.send_response(301)
            # boto3 asks there next, and remembers; the other clients do not.
            self.send_header("x-amz-bucket-region", "eu-west-1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", scopes
        server.shutdown()


@pytest.mark.parametrize("place", ["s3://b/models", "s3://b/h.parquet"])
def test_each_client_asks_in_the_region_of_aws_and_says_that_it_is_the_wrong_one(
    tmp_path: Path, elsewhere: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    endpoint, scopes = elsewhere
    write_aws(tmp_path, "nobody", "nothing")
    monkeypatch.setenv("SLIPWAY_S3_ENDPOINT", endpoint)
    monkeypatch.setenv("SLIPWAY_S3_ACCESS_KEY", "somebody")
    monkeypatch.setenv("SLIPWAY_S3_SECRET_KEY", "something")
    s3 = load_settings().s3
    of_the_store = {name: getattr(s3, name) for name in ("endpoint", "access_key", "secret_key")}
    asking: list[tuple[type[SlipwayError], Callable[[], object]]] = [
        (ObjectError, lambda: ObjectStore(s3).get(place)),
        (FeatureSourceError, lambda: offline(tmp_path, place)),
        # Without a region in the store's own part it is that of AWS as well.
        (FeatureSourceError, lambda: offline(tmp_path, place, {**OURS, "s3": of_the_store})),
        (ObjectStoreUnavailable, lambda: open_storage(place).listing()),
        (ObjectStoreUnavailable, lambda: open_storage(place).read("model.onnx")),
    ]
    for kind, ask in asking:
        scopes.clear()
        with pytest.raises(kind) as caught:
            ask()
        assert caught.value.fix == FIX
        assert "eu-central-1" in scopes
