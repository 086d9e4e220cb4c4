"""Small parts of the runtime: traces, settings, metrics, storage, data types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.runtime.config import parse_config
from serving.runtime.datatypes import element_count, join_bytes, split_bytes
from serving.runtime.metrics import Histogram, Lines, merge
from serving.runtime.storage import File, find_models
from serving.runtime.tracing import parse_traceparent
from slipway.errors import InvalidRequest, SettingsError

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_goes_on_with_a_span_of_our_own() -> None:
    trace = parse_traceparent(TRACE)
    assert trace is not None
    assert (trace.trace_id, trace.parent_id, trace.sampled) == (TRACE[3:35], TRACE[36:52], True)
    assert trace.header.startswith(TRACE[:36])
    assert trace.span_id != trace.parent_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        TRACE.upper(),
        TRACE[:-1],
        TRACE + "-x",
        "ff" + TRACE[2:],
        "00-" + "0" * 32 + TRACE[35:],
    ],
)
def test_a_broken_traceparent_counts_as_none(text: str) -> None:
    assert parse_traceparent(text) is None


def test_flags_win_over_the_environment_and_kserve_spelling_is_read() -> None:
    config = parse_config(
        ["--model_dir=/a", "--http_port", "9000", "--memory-budget", "2G"],
        {"SLIPWAY_RUNTIME_HTTP_PORT": "1", "SLIPWAY_RUNTIME_WORKERS": "3"},
    )
    assert (config.model_dir, config.http_port, config.workers, config.memory_budget) == (
        "/a",
        9000,
        3,
        2 << 30,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--http-port", "many"], {}, "--http-port"),
        ([], {"SLIPWAY_RUNTIME_MAX_BODY": "big"}, "SLIPWAY_RUNTIME_MAX_BODY"),
        (["--no-such-thing", "1"], {}, "no-such-thing"),
    ],
)
def test_wrong_settings_say_which(arguments: list[str], environment: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        parse_config(arguments, environment)


def test_a_histogram_that_has_counted_nothing_is_left_out() -> None:
    lines = Lines()
    lines.histogram("x", {}, Histogram((1.0,)))
    assert lines.text().strip() == b""


def test_a_histogram_counts_as_prometheus_defines() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.add(np.array([0.5, 1.0, 1.5, 99.0]))
    lines = Lines()
    lines.histogram("x", {"model": 'a"b'}, histogram)
    assert lines.text().decode().splitlines() == [
        'x_bucket{model="a\\"b",le="1"} 2',
        'x_bucket{model="a\\"b",le="2"} 3',
        'x_bucket{model="a\\"b",le="+Inf"} 4',
        'x_sum{model="a\\"b"} 102',
        'x_count{model="a\\"b"} 4',
    ]


def test_workers_metrics_add_up_and_states_do_not() -> None:
    first = b'# TYPE a counter\na_total{m="1"} 2\nslipway_model_ready{m="1"} 1\n'
    second = b'# TYPE a counter\na_total{m="1"} 3\na_total{m="2"} 1\nslipway_model_ready{m="1"} 1\n'
    assert merge([first, second]).decode().splitlines() == [
        "# TYPE a counter", 'a_total{m="1"} 5', 'slipway_model_ready{m="1"} 1', 'a_total{m="2"} 1',
    ]  # fmt: skip


def places(*paths: str, name: str = "") -> list[tuple[str, str, str]]:
    found = find_models([File(path, 1, "t", 0.0) for path in paths], name=name, where="/mnt/flights")
    return [(place.name, place.version, place.prefix) for place in found]


def test_what_a_listing_holds() -> None:
    digest = "a" * 64
    assert places("model.onnx", "contract.json") == [("flights", "1", "")]
    assert places("model.onnx", name="delays") == [("delays", "1", "")]
    assert places("3/model.onnx", "12/model.onnx") == [("flights", "12", "12/"), ("flights", "3", "3/")]
    assert places(f"{digest}/model.onnx") == [("flights", digest, f"{digest}/")]
    assert places("a/model.onnx", "b/2/model.onnx") == [("a", "1", "a/"), ("b", "2", "b/2/")]
    assert places("a/odd-name.onnx", "b/readme.txt") == [("a", "1", "a/")]
    assert places("readme.txt") == []


def test_the_newest_version_is_a_number_not_a_text(tmp_path: Path) -> None:
    found = find_models(
        [File(f"m/{v}/model.onnx", 1, "t", 0.0) for v in ("9", "10", "2")], name="", where="/x"
    )
    assert max(found, key=lambda place: place.order).version == "10"


def test_bytes_tensors_go_and_come_back() -> None:
    raw = join_bytes(["UA", "", "ü"])
    assert raw == b"\x02\x00\x00\x00UA\x00\x00\x00\x00\x02\x00\x00\x00\xc3\xbc"
    assert split_bytes(raw, 3, "x") == ["UA", "", "ü"]
    for broken, count in (
        (raw[:-1], 3),
        (raw, 2),
        (raw, 4),
        (raw + b"\x01", 3),
        (b"\x01\x00\x00\x00\xff", 1),
    ):
        with pytest.raises(InvalidRequest):
            split_bytes(broken, count, "x")


def test_shapes_are_judged_before_anything_is_allocated() -> None:
    assert element_count((2, 3), "x") == 6
    for shape in ((10**12,), (-1, 2), (2**20, 2**20)):
        with pytest.raises(InvalidRequest):
            element_count(shape, "x")
    assert np.dtype("<f4").itemsize == 4
