"""How the command line speaks: answers on stdout, progress and errors on stderr, JSON for scripts.

A verb computes a value, then calls `answer(value, json=json, show=...)`: with --json the value goes out as
one JSON document, without it `show` makes text or a table for a person. Progress is drawn only on a
terminal, so that logs and pipes stay clean.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from slipway.errors import SlipwayError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID
    from rich.text import Text

JsonOption = Annotated[bool, typer.Option("--json", help="Answer with one JSON document on stdout.")]

# Rich cuts tables to 80 columns when it sees no terminal; a file or a pipe has room for all of a line.
_WIDE = 1000


def answer(value: Any, *, json: bool, show: Callable[[], RenderableType]) -> None:
    """Print what a verb found: as JSON for a script, or as `show` renders it for a person."""
    if json:
        print_json(value)
        return
    rendered = show()
    if isinstance(rendered, str):
        sys.stdout.write(rendered.rstrip("\n") + "\n")
    else:
        console(sys.stdout).print(rendered)


def print_json(value: Any, stream: TextIO | None = None) -> None:
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2).decode()
    (sys.stdout if stream is None else stream).write(text + "\n")


def _plain(value: Any) -> Any:
    """What msgspec does not know: paths, and the scalars and arrays of numpy."""
    if isinstance(value, Path):
        return str(value)
    for convert in ("tolist", "item"):
        if hasattr(value, convert):
            return getattr(value, convert)()
    raise NotImplementedError(f"cannot write {type(value).__name__} as JSON")


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> RenderableType:
    """A table without rules, so that it also reads well in a log; numbers stand to the right."""
    from rich.table import Table

    cells = [[_text(cell) for cell in row] for row in rows]
    made = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for index, column in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[index].plain) for row in cells)
        made.add_column(column, justify="right" if numeric else "left", header_style="bold", overflow="fold")
    for row in cells:
        made.add_row(*row)
    return made


def _text(cell: object) -> Text:
    from rich.text import Text

    if isinstance(cell, Text):
        return cell
    if cell is None:
        return Text("-")
    return Text(_short(cell) if isinstance(cell, float) else str(cell))


def _short(number: float) -> str:
    """Four digits, but never fewer than stand before the point, as long as a person would read them."""
    if not 9999.5 <= abs(number) < 1e15:
        return f"{number:.4g}"
    return f"{number:.1f}".removesuffix(".0")


def size(count: int | None) -> str | None:
    """Bytes as a person reads them: `12.3 MB`."""
    if count is None:
        return None
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str | None:
    """Seconds as a person reads them: `4 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds is None:
        return None
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "", 1).lstrip("-").isdigit()


def console(stream: TextIO) -> Console:
    """Rich on this stream; colours only where a terminal shows them, and NO_COLOR is obeyed."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False, soft_wrap=False)


class Bar:
    """What `progress` hands out; every call is free of cost when nothing is drawn."""

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress, self._task = progress, task
        # Whoever works meanwhile may let something else stand in for stderr, as kfp's log does.
        self._stream = sys.stderr

    def advance(self, step: float = 1) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, step)

    def update(
        self, *, label: str | None = None, total: float | None = None, done: float | None = None
    ) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=label, total=total, completed=done)

    def say(self, line: str) -> None:
        """A line that stays; above the bar where one is drawn."""
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)


@contextmanager
def progress(label: str, *, total: float | None = None, size: bool = False) -> Iterator[Bar]:
    """A progress bar on stderr, gone when done; nothing at all without a terminal.

    Without a total it pulses. `size=True` counts bytes.
    """
    if not sys.stderr.isatty():
        yield Bar()
        return
    from rich import progress as rich

    columns = [rich.SpinnerColumn(), rich.TextColumn("{task.description}"), rich.BarColumn()]
    columns.append(rich.DownloadColumn() if size else rich.MofNCompleteColumn())
    columns.append(rich.TimeElapsedColumn())
    with rich.Progress(*columns, console=console(sys.stderr), transient=True) as drawn:
        yield Bar(drawn, drawn.add_task(label, total=total))


def note(text: str) -> None:
    """A line for a person beside the answer; on stderr, so that it never mixes with JSON."""
    sys.stderr.write(text.rstrip("\n") + "\n")


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors go out as JSON too; read from the words, because a usage error leaves no options."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own


def show_error(error: SlipwayError, *, json: bool, exit_code: int | None = None) -> None:
    """What, where and how to mend it, on stderr."""
    if json:
        document = {
            "kind": type(error).__name__,
            "what": error.what,
            "where": error.where,
            "fix": error.fix,
            "exit_code": error.exit_code if exit_code is None else exit_code,
        }
        print_json({"error": document}, sys.stderr)
        return
    place = f"{error.where}: " if error.where else ""
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(f"{place}{error.what}", err=True)
    if error.fix:
        typer.secho("  to mend it: ", bold=True, nl=False, err=True)
        typer.echo(error.fix, err=True)
