"""Accept or reject every row: what is accepted satisfies the schema, what is not keeps its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from components.ingest import flights as cleaning
from components.ingest import schema
from components.ingest.clock import ZONES_NOT_IN_AIRPORTS
from components.ingest.columns import LAYOUTS
from components.ingest.sources import PROBLEM, ROW
from slipway.datasets import Decision
from slipway.errors import DataError

_BREAK = "; "
_SHOWN = 5


@dataclass(frozen=True)
class Checked:
    flights: pl.DataFrame
    weather: pl.DataFrame
    planes: pl.DataFrame
    airports: pl.DataFrame
    rejects: pl.DataFrame
    """table, row, reasons, and the row as it was read, in JSON."""
    decisions: list[Decision]
    read: Mapping[str, int]
    """Table → rows that were read."""

    @property
    def reasons(self) -> dict[str, int]:
        """Reason → rows, most frequent first; values are left out, so that equal faults count together."""
        text = pl.element().str.replace(r" is .*: is ", " is ").str.replace(r" is .*, not ", " is not ")
        each = self.rejects.select("table", pl.col("reasons").str.split(_BREAK).list.eval(text))
        counted = each.explode("reasons").group_by("table", "reasons").len()
        counted = counted.sort(-pl.col("len").cast(pl.Int64), "table", "reasons")
        return {f"{table}: {reason}": rows for table, reason, rows in counted.iter_rows()}

    def refuse_too_many(self, share: float, *, where: Mapping[str, str]) -> None:
        for (table,), rejects in self.rejects.group_by("table", maintain_order=True):
            name = str(table)
            if rejects.height > share * self.read[name]:
                rows = rejects.select(ROW, "reasons").head(_SHOWN).iter_rows()
                raise DataError(
                    f"{rejects.height:,} of {self.read[name]:,} rows of {name} break its schema: "
                    + _BREAK.join(f"row {row}: {text}" for row, text in rows),
                    where=where[name],
                    fix=f"mend the file, or take the loss with --max-rejects above {share:g}; "
                    "nothing was published",
                )


def check_tables(tables: Mapping[str, pl.DataFrame]) -> Checked:
    """Check and clean the parsed tables, by name."""
    rejects: list[pl.DataFrame] = []

    def accept(name: str, frame: pl.DataFrame, key: tuple[str, ...]) -> pl.DataFrame:
        accepted, rejected = _split(name, frame, key)
        rejects.append(rejected)
        return accepted

    airports = accept("airports", tables["airports"], ("faa",))
    planes = accept("planes", tables["planes"], ("tailnum",))
    weather = accept("weather", tables["weather"], ("origin", "time_hour"))
    zones = airports.select(airport="faa", zone="tzone")
    by_hand = pl.DataFrame(
        {"airport": list(ZONES_NOT_IN_AIRPORTS), "zone": list(ZONES_NOT_IN_AIRPORTS.values())}
    ).join(zones, on="airport", how="anti")
    derived = cleaning.derive(tables["flights"], pl.concat([zones, by_hand]))
    flights = accept("flights", derived, cleaning.KEY)
    decisions = [
        *cleaning.decisions(flights, by_hand),
        *_weather_decisions(flights, weather),
        *(
            Decision(f"{name} rejected", rejected.height, "broke the schema; see the rejects table.")
            for name, rejected in zip(("airports", "planes", "weather", "flights"), rejects, strict=True)
        ),
    ]
    return Checked(
        flights.select(cleaning.CLEAN),
        weather.select(*LAYOUTS["weather"].columns),
        planes.select(*LAYOUTS["planes"].columns),
        airports.select(*LAYOUTS["airports"].columns),
        pl.concat(rejects),
        decisions,
        {name: frame.height for name, frame in tables.items()},
    )


def _split(name: str, frame: pl.DataFrame, key: tuple[str, ...]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that satisfy the schema, one for each key, and the rejects."""
    broken = schema.reasons(frame, schema.SCHEMAS[name])
    reasons = pl.concat_str(PROBLEM, "reason", separator=_BREAK, ignore_nulls=True)
    judged = (
        frame.with_row_index("index")
        .join(broken, on="index", how="left", maintain_order="left")
        .with_columns(reasons.replace("", None).alias("reasons"))
        .drop("index", "reason", PROBLEM)
    )
    sound = judged.filter(pl.col("reasons").is_null())
    # The same key twice: the first stays, and the others say which row they repeat.
    first = pl.col(ROW).min().over(key)
    doubles = sound.filter(pl.col(ROW) != first)
    if not doubles.is_empty():
        repeated = pl.format(f"the same {', '.join(key)} as row {{}}", first)
        doubles = sound.with_columns(repeated.alias("reasons")).filter(pl.col(ROW) != first)
    rejected = pl.concat([judged.filter(pl.col("reasons").is_not_null()), doubles])
    return (
        sound.join(doubles.select(ROW), on=ROW, how="anti", maintain_order="left"),
        rejected.select(
            pl.lit(name).alias("table"),
            ROW,
            "reasons",
            pl.struct(*LAYOUTS[name].columns).struct.json_encode().alias("record"),
        ),
    )


def _weather_decisions(flights: pl.DataFrame, weather: pl.DataFrame) -> list[Decision]:
    hours = weather.sort("origin", "time_hour").with_columns(
        gap=(pl.col("time_hour").diff().over("origin").dt.total_hours() - 1)
    )
    uncovered = flights.filter(pl.col("origin").is_not_null()).join(
        weather.select("origin", "time_hour"),
        left_on=["origin", pl.col("scheduled_departure").dt.truncate("1h")],
        right_on=["origin", "time_hour"],
        how="anti",
    )
    return [
        Decision(
            "weather hours missing",
            int(hours["gap"].fill_null(0).sum()),
            "between an origin's first and last hour; nothing is filled in: the last observation serves "
            "until its time to live ends.",
        ),
        Decision(
            "flights in an hour without weather",
            uncovered.height,
            "kept; the same holds for them.",
        ),
    ]
