"""Models from S3 and captured predictions to S3, over a real HTTP endpoint."""

from __future__ import annotations

import io
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import onnx
import polars
import pytest
from moto.server import ThreadedMotoServer

from tests.support.contracts import contract, publish, weighted
from tests.support.server import running_server


@contextmanager
def s3_with_bucket(name: str) -> Iterator[tuple[str, Any]]:
    """The endpoint of an S3 server of its own, and a client of it."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        s3 = boto3.client("s3", endpoint_url=endpoint, **keys)
        s3.create_bucket(Bucket=name)
        yield endpoint, s3
    finally:
        server.stop()


def with_weights_beside(folder: Path, weight: float) -> list[bytes]:
    """score = sum of features x weights, with the weights in a file of their own; the files' bytes.

    The threshold is for the Python object of 33 bytes and more: the three weights go, the axis stays.
    """
    folder.mkdir(parents=True)
    onnx.save_model(
        weighted((weight, 10.0, 100.0)), str(folder / "model.onnx"), save_as_external_data=True,
        all_tensors_to_one_file=True, location="model.onnx.data", size_threshold=43,
    )  # fmt: skip
    return [(folder / name).read_bytes() for name in ("model.onnx", "model.onnx.data")]


def test_credentials_of_a_profile_in_the_files_of_aws(tmp_path: Path) -> None:
    with s3_with_bucket("profiles") as (endpoint, s3):
        onnx.save(weighted((1.0, 10.0, 100.0)), tmp_path / "model.onnx")
        s3.upload_file(str(tmp_path / "model.onnx"), "profiles", "models/a/model.onnx")
        (tmp_path / "credentials").write_text("[night]\naws_access_key_id = a\naws_secret_access_key = b\n")
        environment = {
            "SLIPWAY_S3_ENDPOINT": endpoint, "AWS_PROFILE": "night",
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        }  # fmt: skip
        where = ("--model-dir", "s3://profiles/models")
        with running_server(tmp_path, tmp_path / "run", *where, environment=environment) as running:
            assert httpx.get(f"{running.url}/v2/models/a/ready").status_code == 200


def test_weights_beside_the_graph_from_a_folder_and_from_s3(tmp_path: Path) -> None:
    first = with_weights_beside(tmp_path / "models" / "a", 1.0)
    second = with_weights_beside(tmp_path / "models" / "b", 2.0)
    assert first[0] == second[0]
    assert first[1] != second[1]
    with s3_with_bucket("weights") as (endpoint, s3):
        for path in (tmp_path / "models").rglob("model.onnx*"):
            s3.upload_file(str(path), "weights", path.relative_to(tmp_path).as_posix())
        environment = {
            "SLIPWAY_S3_ENDPOINT": endpoint, "SLIPWAY_S3_ACCESS_KEY": "a", "SLIPWAY_S3_SECRET_KEY": "b",
        }  # fmt: skip
        for number, where in enumerate((str(tmp_path / "models"), "s3://weights/models")):
            with running_server(
                tmp_path, tmp_path / f"run{number}", "--model-dir", where, environment=environment
            ) as running:
                digests = set()
                for name, wanted in (("a", 321.0), ("b", 322.0)):
                    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
                    answer = httpx.post(f"{running.url}/v2/models/{name}/infer", json={"inputs": [tensor]})
                    assert answer.json()["outputs"][0]["data"] == [wanted], where
                    digests.add(answer.headers["x-slipway-model-digest"])
                # The graphs are the same to the byte: the digest must cover the weights.
                assert len(digests) == 2
        s3.delete_object(Bucket="weights", Key="models/b/model.onnx.data")
        with running_server(
            tmp_path, tmp_path / "run2", "--model-dir", "s3://weights/models", environment=environment
        ) as running:
            states = {e["name"]: e for e in httpx.post(f"{running.url}/v2/repository/index").json()}
            assert states["a"]["state"] == "READY"
            assert states["b"]["state"] == "UNAVAILABLE"
            assert "model.onnx.data" in states["b"]["reason"]


def test_a_store_that_takes_no_predictions_slows_no_request(tmp_path: Path) -> None:
    """It takes connections and never answers: rows are lost and counted, nobody waits, not even the end."""
    publish(tmp_path / "models" / "delays", contract(), version="1")
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        environment = {
            "SLIPWAY_S3_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "SLIPWAY_S3_ACCESS_KEY": "a", "SLIPWAY_S3_SECRET_KEY": "b",
        }  # fmt: skip
        options = ("--capture-uri", "s3://nowhere/kept", "--capture-rate", "1", "--capture-seconds", "0.1",
                   "--drain-seconds", "3")  # fmt: skip
        with running_server(
            tmp_path / "models", tmp_path / "run", *options, environment=environment
        ) as server:
            # The store is given up after 30 s: who waited for it would wait longer than this.
            with httpx.Client(base_url=server.url, timeout=20) as client:
                for _ in range(5000):
                    client.post("/v2/models/delays/infer", json={"inputs": [tensor]}).raise_for_status()
                lines = client.get("/metrics").text.splitlines()
            counted = {line.split()[0]: float(line.split()[1]) for line in lines if "capture" in line[:20]}
            # One run after the other: more of them than may wait to be written.
            assert counted["slipway_capture_dropped_total"] > 0
            assert counted["slipway_capture_written_total"] == 0
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0


def test_a_repository_on_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_with_bucket("slipway") as (endpoint, s3):
        folder = publish(tmp_path / "models" / "delays", contract())
        for path in folder.iterdir():
            s3.upload_file(str(path), "slipway", f"models/delays/{folder.name}/{path.name}")
        # `models` must not take what lies under `models-old`.
        s3.upload_file(str(folder / "model.onnx"), "slipway", "models-old/other/1/model.onnx")
        environment = {
            "SLIPWAY_S3_ENDPOINT": endpoint, "SLIPWAY_S3_ACCESS_KEY": "a", "SLIPWAY_S3_SECRET_KEY": "b",
        }  # fmt: skip
        options = ("--model-dir", "s3://slipway/models", "--capture-uri", "s3://slipway/kept",
                   "--capture-rate", "1", "--capture-seconds", "0.2")  # fmt: skip
        with running_server(tmp_path, tmp_path / "run", *options, environment=environment) as running:
            index = httpx.post(f"{running.url}/v2/repository/index").json()
            assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
                ("delays", folder.name, "READY")
            ]
            tensor = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
            answer = httpx.post(f"{running.url}/v2/models/delays/infer", json={"inputs": [tensor]})
            assert answer.json()["outputs"][0]["data"] == [321.0]
            until, found = time.monotonic() + 60, None
            while found is None and time.monotonic() < until:
                time.sleep(0.1)
                found = next(
                    iter(s3.list_objects_v2(Bucket="slipway", Prefix="kept/").get("Contents", [])), None
                )
            assert found is not None
            body = s3.get_object(Bucket="slipway", Key=found["Key"])["Body"].read()
            assert polars.read_parquet(io.BytesIO(body))["score"].to_list() == [321.0]
