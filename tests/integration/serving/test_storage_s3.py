"""Models from S3 and captured predictions to S3, over a real HTTP endpoint."""

from __future__ import annotations

import io
import time
from pathlib import Path

import boto3
import httpx
import polars
import pytest
from moto.server import ThreadedMotoServer

from tests.support.contracts import contract, publish
from tests.support.server import running_server


def test_a_repository_on_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        s3 = boto3.client("s3", endpoint_url=endpoint, **keys)
        s3.create_bucket(Bucket="slipway")
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
            until, found = time.monotonic() + 15, None
            while found is None and time.monotonic() < until:
                time.sleep(0.1)
                found = next(
                    iter(s3.list_objects_v2(Bucket="slipway", Prefix="kept/").get("Contents", [])), None
                )
            assert found is not None
            body = s3.get_object(Bucket="slipway", Key=found["Key"])["Body"].read()
            assert polars.read_parquet(io.BytesIO(body))["score"].to_list() == [321.0]
    finally:
        server.stop()
