"""The whole loop on one machine: data, features, training, gates, serving, later months, and a model that
must not ship.

What is known is not done again: every step is keyed by what it was made from, and a step that ended well
leaves a note of its outcome on S3 under that key.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from components.deploy.ask import model_path, request
from components.provenance import content_key
from pipelines.aside import aside
from pipelines.warm import step_server
from slipway.contract import REPORT_FILE
from slipway.datasets import Dataset, open_dataset
from slipway.errors import SlipwayError
from slipway.local import Platform
from slipway.objects import ObjectStore
from slipway.settings import load_settings
from slipway.source_code import code_digest

START, END = "2013-01-02", "2013-04-01"
"""Trained on winter and judged by its last weeks."""
LATER = "2013-06-01"
"""Up to here the model is then judged on months it has never seen."""
CLOCK = "2013-04-01T20:00:00Z"
"""The now of the replay: the day after training ended."""
CONFIG = '{"model": {"kind": "boosting", "rounds": 80, "learning_rate": 0.15}}'

Say = Callable[[str], None]


class Asked(msgspec.Struct, frozen=True):
    flight: str
    scheduled: str
    probability: float
    late: bool
    """What became of it; nobody knew when it was asked."""
    receipt: dict[str, str]
    freshest: str
    defaults: int


class Outcome(msgspec.Struct, frozen=True):
    seconds: float
    version: str
    steps: dict[str, str]
    asked: tuple[Asked, ...]
    later: str
    refused: str
    pages: dict[str, str]
    follow: str
    """The command that walks from the first answer to the raw files."""


class Demo:
    def __init__(self, say: Say, doing: Say) -> None:
        self._say, self._doing = say, doing
        self._began = time.monotonic()
        self._steps: dict[str, str] = {}
        self._platform = Platform.of(load_settings())
        self._settings = load_settings()
        self._objects = ObjectStore.from_settings(self._settings)
        self._breaking: Future[dict[str, str]] | None = None

    def run(self) -> Outcome:
        """PlatformBusy while another demo works in the same folder: it would wait for what that one makes."""
        home = self._platform.home
        with (
            home.locked(0.0, what="demo", name="demo.lock"),
            # Ends last: what still waits for the server is let go when that ends.
            ThreadPoolExecutor(4) as self._pool,
            # The steps' packages are imported while the data is made.
            step_server() as self._server,
        ):
            try:
                return self._run()
            except BaseException:
                if self._server is not None:
                    self._server.interrupt()
                raise

    def _run(self) -> Outcome:
        self._up()
        self._tracking = None if self._platform.home.tracking.exists() else self._aside("tracking")
        raw = self._ingest()
        features = self._features(raw)
        self._made = content_key(features.digest, START, END, LATER, CLOCK, CONFIG, _code())
        trained = self._known("train", self._made, self._train)
        version = trained["version"]
        self._tell("serve", trained["told"])
        breaking = self._breaking or self._break(trained["snapshot"])
        asked = self._ask(raw, trained["path"])
        digest = asked[0].receipt["model_digest"]
        later = self._known("later", self._made + version, self._evaluate)
        self._tell("later months", f"{later['told']}, April and May")
        self._doing("Breaking a model: its scaler stays outside the graph")
        refused = breaking.result()
        gate = refused["told"].partition(" failed")[0]
        self._tell("broken model", f"its scaler was left out of the graph: stopped by {gate}")
        report = self._settings.uri("models", version.rpartition(":")[0], digest, REPORT_FILE)
        pages = {
            "report on training": self._page(report, "training.html"),
            "report on later months": self._page(later["uri"] + REPORT_FILE, "later.html"),
            "models and runs": (
                # MLflow's four workers would take 40 s to start on two cores; one takes 17.
                f"{_command('mlflow')} ui --workers 1"
                f" --backend-store-uri sqlite:///{_near(self._platform.home.tracking)}, then http://127.0.0.1:5000"
            ),
        }
        seconds = time.monotonic() - self._began
        follow = f"{_command('slipway')} trace {digest[:16]}"
        return Outcome(seconds, version, self._steps, asked, later["told"], refused["told"], pages, follow)

    def _up(self) -> None:
        self._doing("Starting S3 and the online store")
        self._platform.up(clock=CLOCK)
        self._settings = load_settings()
        if self._settings.profile != "local":
            raise SlipwayError("the demo is for the profile local", fix="unset SLIPWAY_PROFILE")
        self._objects = ObjectStore.from_settings(self._settings)
        self._tell(
            "platform",
            f"S3 at {self._settings.s3.endpoint}; its clock says {CLOCK[:16].replace('T', ' ')} UTC",
        )

    def _ingest(self) -> Dataset:
        from components.ingest import ingest

        self._doing("Ingesting the flights of 2013")
        found = ingest(self._settings).dataset
        tables = found.manifest.tables
        self._tell(
            "ingest", f"{tables['flights'].rows:,} flights, {tables['weather'].rows:,} hours of weather"
        )
        return found

    def _features(self, raw: Dataset) -> Dataset:
        from feature_repo import build_features

        self._doing("Computing features as of when they were known")
        found = build_features(
            self._settings,
            objects=self._objects,
            report=lambda step, done, total: self._doing(f"Features: {step}"),
        )
        rows = sum(table.rows for table in found.manifest.tables.values())
        views = len(found.manifest.tables)
        self._tell("features", f"{views} views, {rows:,} rows, each dated when it could be known")
        stored = self._known("online", content_key(found.digest, CLOCK, _code()), self._materialize)
        self._tell("online store", stored["told"])
        return found

    def _materialize(self) -> dict[str, str]:
        from pipelines.local import import_kfp

        self._doing("Applying the definitions and filling the online store")
        online = self._aside("online")
        import_kfp()
        return {"told": online.result()}

    def _train(self) -> dict[str, str]:
        from pipelines.local import run_local

        # What does not wait for the model is done on the second core while it is made.
        later = self._aside("snapshot", END, LATER)
        self._doing("Running the training pipeline")
        if self._tracking is not None:
            self._tracking.result()
        arguments = {"start": START, "end": END, "config": CONFIG, "why": "demo"}

        def follow(event: Any) -> None:
            self._follow(event)
            if (event.step, event.state) == ("snapshot", "done"):
                self._breaking = self._break(event.result)

        result = run_local("train", arguments, self._settings, tell=follow)
        wait([later])
        version = result.result("register")
        name, _, number = version.rpartition(":")
        return {
            "version": version,
            "path": model_path(name),
            "snapshot": result.result("snapshot"),
            "told": f"{name} version {number} answers at {result.result('deploy')}",
        }

    def _follow(self, event: Any) -> None:
        if event.state == "started":
            self._doing(f"Pipeline: {event.step}")
        elif event.state == "done" and event.step != "finish":
            self._tell(event.step, event.told)

    def _ask(self, raw: Dataset, path: str) -> tuple[Asked, ...]:
        url = self._platform.serving_url()
        answers = [self._ask_one(url, path, flight) for flight in self._next_flights(raw)]
        answers.sort(key=lambda one: -one.probability)
        # Chosen by what was answered, not by what became of them.
        asked = (answers[0], answers[len(answers) // 2], answers[-1])
        self._tell("ask", f"{len(answers)} flights leave in an hour; of the likeliest to the least likely:")
        for one in asked:
            outcome = "was late" if one.late else "was not late"
            self._tell("ask", f"{one.flight}: {one.probability:.0%} likely to be late; it {outcome}")
        return asked

    def _ask_one(self, url: str, path: str, flight: dict[str, Any]) -> Asked:
        """Entities and the timetable go in; all features come from the online store."""
        kinds = {"hour": "FP32", "weekday": "FP32", "scheduled_departure": "FP64"}
        names = ("carrier", "origin", "dest", "tailnum", "hour", "weekday", "scheduled_departure")
        inputs = [
            {"name": name, "datatype": kinds.get(name, "BYTES"), "shape": [1, 1], "data": [flight[name]]}
            for name in names
        ]
        answer = request(url, "POST", f"{path}/infer", {"inputs": inputs})
        if answer.status != 200:
            raise SlipwayError(f"the runtime answered {answer.status}: {answer.error}", where=url + path)
        body = msgspec.json.decode(answer.body)
        told = body["parameters"]
        ages = [value for name, value in told.items() if name.startswith("feature_age.") and value < 10**8]
        return Asked(
            flight=f"{flight['carrier']}{flight['flight']} {flight['origin']}-{flight['dest']}",
            scheduled=flight["text"],
            probability=body["outputs"][0]["data"][0],
            late=bool(flight["late"]),
            receipt={
                name: str(told[name]) for name in ("model_digest", "run_id", "feature_service", "snapshot")
            },
            freshest=f"{min(ages, default=0) / 60:.0f} to {max(ages, default=0) / 60:.0f} minutes old",
            defaults=int(told.get("feature_defaults", 0)),
        )

    def _next_flights(self, raw: Dataset) -> list[dict[str, Any]]:
        """Real ones, an hour before they are to leave."""
        import polars as pl

        from feature_repo import label_frame
        from slipway.tables import read_table

        now = datetime.fromisoformat(CLOCK).astimezone(UTC)
        leave = now + timedelta(hours=1)
        frame = label_frame(
            read_table(self._objects, open_dataset(self._objects, raw.root, raw.digest), "flights"),
            start=leave,
            end=leave + timedelta(minutes=30),
        ).frame
        rows = (
            frame.sort("event_timestamp", "carrier", "flight")
            .with_columns(pl.col("hour").cast(pl.Float64), pl.col("weekday").cast(pl.Float64))
            .to_dicts()
        )
        return [{**row, "text": (row["event_timestamp"] + timedelta(hours=1)).isoformat()} for row in rows]

    def _evaluate(self) -> dict[str, str]:
        from pipelines.local import run_local

        self._doing("Judging the champion on the months that followed")
        result = run_local(
            "evaluate", {"start": END, "end": LATER, "version": "champion"}, self._settings, tell=self._follow
        )
        told = next(event.told for event in result.steps if event.step == "evaluate")
        return {"uri": result.result("evaluate"), "told": told}

    def _break(self, snapshot: str) -> Future[dict[str, str]]:
        """It needs no more than the snapshot."""

        def make() -> dict[str, str]:
            return {"told": self._aside("broken", snapshot).result()}

        return self._pool.submit(self._known, "broken", self._made, make)

    def _aside(self, what: str, *arguments: str) -> Future[str]:
        return self._pool.submit(aside, self._server, what, self._platform.home.path, *arguments)

    def _known(self, stage: str, key: str, make: Callable[[], dict[str, str]]) -> dict[str, str]:
        """The outcome of a stage: from S3 where it ended well before, else made now."""
        uri = self._settings.uri("demo", stage, key)
        if self._objects.head(uri) is not None:
            return msgspec.json.decode(self._objects.get(uri), type=dict[str, str])
        outcome = make()
        self._objects.put(uri, msgspec.json.encode(outcome))
        return outcome

    def _page(self, uri: str, name: str) -> str:
        path = self._platform.home.path / "pages" / name
        self._objects.download(uri, path)
        return _near(path)

    def _tell(self, step: str, line: str) -> None:
        self._steps[step] = line
        self._say(f"{time.monotonic() - self._began:6.1f} s  {step:<13} {line}")


def _near(path: Path) -> str:
    """As seen from where the user is."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _command(name: str) -> str:
    """How the user calls a program of our environment."""
    ours = Path(sys.executable).with_name(name)
    return name if shutil.which(name) == str(ours) else _near(ours)


def _code() -> str:
    return code_digest("components", "feature_repo", "pipelines", "slipway/features")
