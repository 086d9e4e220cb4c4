"""Small SVG charts for the report: no scripts, no files beside it, colours that follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import msgspec

WIDTH, HEIGHT = 460, 320
RIGHT, TOP, BOTTOM = 14, 14, 44


class Axes:
    """A plotting area; x and y run over the given ranges."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        title: str,
        width: int = WIDTH,
        height: int = HEIGHT,
        left: int = 52,
    ) -> None:
        self.x_range, self.y_range = x, y
        self.width, self.height, self.left = width, height, left
        self.bottom, self.right = height - BOTTOM, width - RIGHT
        self.title = title
        self._parts: list[str] = []

    def x(self, value: float) -> float:
        low, high = self.x_range
        share = (min(max(value, low), high) - low) / ((high - low) or 1)
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        share = (min(max(value, low), high) - low) / ((high - low) or 1)
        return round(self.bottom - share * (self.bottom - TOP), 1)

    def frame(
        self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str = ""
    ) -> None:
        for value in y_ticks:
            self.segment((self.left, self.y(value)), (self.right, self.y(value)), "grid")
            self.text(self.left - 7, self.y(value) + 4, f"{value:g}", "tick", "end")
        for value in x_ticks:
            self.segment((self.x(value), TOP), (self.x(value), self.bottom), "grid")
            self.text(self.x(value), self.bottom + 16, f"{value:g}", "tick", "middle")
        self.text((self.left + self.right) / 2, self.height - 6, x_label, "label", "middle")
        if y_label:
            turned = f' transform="translate(12 {(TOP + self.bottom) / 2}) rotate(-90)"'
            self.text(0, 0, y_label, "label", "middle", turned)

    def text(self, x: float, y: float, words: str, style: str, anchor: str, more: str = "") -> None:
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self._parts.append(f'<text class="{style}" {place}{more}>{escape(words)}</text>')

    def segment(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        """In pixels; `line` takes values."""
        ends = f'x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}"'
        self._parts.append(f'<line class="{style}" {ends}/>')

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        path = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        self._parts.append(f'<polyline class="{style}" points="{path}"/>')

    def rule(self, value: float, style: str, note: str = "") -> None:
        """A vertical line across the area."""
        at = self.x(value)
        self.segment((at, TOP), (at, self.bottom), style)
        if at > self.width * 0.7:
            self.text(at - 5, TOP + 12, note, "note", "end")
        else:
            self.text(at + 5, TOP + 12, note, "note", "start")

    def dot(self, x: float, y: float, style: str, radius: float, tip: str) -> None:
        """Across in values, down in pixels where the axis has rows."""
        place = f'cx="{self.x(x)}" cy="{y:.1f}" r="{radius:.1f}"'
        self._parts.append(f'<circle class="{style}" {place}><title>{escape(tip)}</title></circle>')

    def bar(self, x: tuple[float, float], y: float, style: str, tip: str) -> None:
        left, right, top, base = self.x(x[0]), self.x(x[1]), self.y(y), self.y(self.y_range[0])
        place = f'x="{left + 0.5}" y="{top}" width="{max(right - left - 1, 1):.1f}" height="{base - top:.1f}"'
        self._parts.append(f'<rect class="{style}" {place}><title>{escape(tip)}</title></rect>')

    def svg(self) -> str:
        size = f'viewBox="0 0 {self.width} {self.height}"'
        body = "\n".join(self._parts)
        return f'<svg {size} role="img" aria-label="{escape(self.title)}">\n{body}\n</svg>'


class Row(msgspec.Struct, frozen=True):
    """A line of a dot plot; NaN for what could not be told."""

    name: str
    remark: str
    value: float
    low: float
    high: float
    other: float | None = None
    """The champion's value, drawn as a ring."""


def dot_plot(
    rows: Sequence[Row], *, x_range: tuple[float, float], x_label: str, average: float, title: str
) -> str:
    step = 24
    axes = Axes(
        x_range, (0, 1), title=title, width=720, height=TOP + BOTTOM + 10 + step * len(rows), left=190
    )
    axes.frame(ticks(*x_range), [], x_label)
    axes.rule(average, "average", "all rows")
    for place, row in enumerate(rows):
        y = TOP + 10 + step * (place + 0.5)
        axes.text(8, y + 4, row.name, "row", "start")
        axes.text(axes.left - 10, y + 4, row.remark, "tick", "end")
        if row.low != row.low:
            axes.text(axes.left + 6, y + 4, "too few rows to judge", "tick", "start")
            continue
        axes.segment((axes.x(row.low), y), (axes.x(row.high), y), "interval")
        if row.other is not None and row.other == row.other:
            axes.dot(row.other, y, "ring", 5, f"champion: {row.other:.3f}")
        axes.dot(row.value, y, "ours", 4, f"{row.name}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})")
    return axes.svg()


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values that lie in the range."""
    raw = (high - low) / count or 1.0
    magnitude = 10.0 ** int(f"{raw:e}".split("e")[1])
    step = next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude >= raw * 0.999)
    first = int(low / step) * step
    values = [first + step * number for number in range(count * 3)]
    return [round(value, 10) for value in values if low - 1e-9 <= value <= high + 1e-9]
