"""Rows on which two implementations of one model part company, if they ever do."""

from __future__ import annotations

import numpy as np

from components.inputs import CATEGORIES, NUMBERS, TIMES, Tensors

UNKNOWN = ("never seen before", "Ünknown ☃", " ", "nan", "None", "0")
EXTREMES = (0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 1e9, -1e9, 1e30, -1e30, float(2**24 + 1))


def edge_rows(real: Tensors, *, seed: int = 0) -> Tensors:
    """Made from real rows, one thing changed at a time: all missing, each input missing, unknown words,
    extreme numbers, numbers one float beside a real one (where trees split), and times far apart."""
    draw = np.random.default_rng(seed)
    count = len(next(iter(real.values())))
    made: list[Tensors] = []

    def changed(name: str | None, place: int | None, value: object) -> None:
        at = int(draw.integers(count))
        row = {key: matrix[at : at + 1].copy() for key, matrix in real.items()}
        for key in [name] if name else list(row):
            nothing = "" if key == CATEGORIES else np.nan
            filled = nothing if name is None else value
            row[key][:, slice(None) if place is None else place] = filled
        made.append(row)

    changed(None, None, None)
    for name, matrix in real.items():
        changed(name, None, "" if name == CATEGORIES else np.nan)
        for place in range(matrix.shape[1]):
            values: tuple[object, ...]
            if name == CATEGORIES:
                values = ("", *UNKNOWN)
            elif name == TIMES:
                values = (np.nan, 0.0, 4e9, float(matrix[0, place]) + 0.5)
            else:
                values = (np.nan, *EXTREMES)
            for value in values:
                changed(name, place, value)
    if NUMBERS in real:
        for value in (1e30, -1e30, 3.4e38, -3.4e38):
            changed(NUMBERS, None, np.float32(value))
        for direction in (np.inf, -np.inf):
            beside = {key: matrix[:200].copy() for key, matrix in real.items()}
            beside[NUMBERS] = np.nextafter(beside[NUMBERS], np.float32(direction))
            made.append(beside)
    return {name: np.concatenate([row[name] for row in made]) for name in real}
