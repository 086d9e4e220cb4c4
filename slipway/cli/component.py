"""Running one component by itself: its step is called here, with what KFP would have handed to it."""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import msgspec

from slipway.errors import SettingsError, SlipwayError

Run = Callable[..., Any]


class ComponentResult(msgspec.Struct, frozen=True):
    component: str
    result: str
    """What the step answered: an address, a version."""
    folder: str
    """Its artifacts."""


def run_component(name: str, pairs: Sequence[str], output: Path | None) -> ComponentResult:
    """Call the component's function as kfp's executor does, in this process."""
    from pipelines import steps

    # The artifacts and the inputs are read from the same definition that goes to a cluster.
    known = {key.replace("_", "-"): item for key, item in vars(steps).items() if _is_component(item)}
    if name not in known:
        raise SettingsError(f"there is no component {name!r}", fix=f"use one of: {', '.join(sorted(known))}")
    component = known[name]
    inputs = component.component_spec.inputs or {}
    values = _read(name, pairs, {key: item.type for key, item in inputs.items()})
    folder = output or Path(tempfile.mkdtemp(prefix=f"slipway-{name}-"))
    folder.mkdir(parents=True, exist_ok=True)
    function: Run = component.python_func
    artifacts = {
        key: _artifact(parameter.annotation, key, folder)
        for key, parameter in inspect.signature(function).parameters.items()
        if key not in inputs
    }
    # Steps tell what they do on stdout, where our own answer goes.
    with redirect_stdout(sys.stderr):
        try:
            result = function(**values, **artifacts)
        except SystemExit as end:
            # A step ends its process; in this one the command line shows the error itself.
            if isinstance(end.__context__, SlipwayError):
                raise end.__context__ from None
            raise
        finally:
            for key, artifact in artifacts.items():
                if artifact.metadata:
                    content = msgspec.json.format(msgspec.json.encode(artifact.metadata))
                    (folder / f"{key}.json").write_bytes(content)
    return ComponentResult(name, "" if result is None else str(result), str(folder))


def _is_component(item: Any) -> bool:
    # `finish` is told of a run by KFP itself, and has nothing to do without one.
    return hasattr(item, "component_spec") and hasattr(item, "python_func") and item.name != "finish"


def _artifact(annotation: Any, name: str, folder: Path) -> Any:
    """An Output[...] of the kind that the step writes to."""
    from kfp.dsl.types.type_annotations import get_io_artifact_class

    return get_io_artifact_class(annotation)(name=name, uri=str(folder / name))


def _read(name: str, pairs: Sequence[str], kinds: dict[str, str]) -> dict[str, Any]:
    """The arguments by name, in their types; `project` may be left out as in the pipelines."""
    given: dict[str, str] = {"project": ""} if "project" in kinds else {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or key not in kinds:
            raise SettingsError(
                f"{name} takes no argument {pair!r}", fix=f"write key=value with: {', '.join(kinds)}"
            )
        given[key] = text
    missing = [key for key in kinds if key not in given]
    if missing:
        raise SettingsError(
            f"{name} needs {', '.join(missing)}",
            fix=" ".join(f"--argument {key}=…" for key in missing),
        )
    return {key: _typed(key, given[key], kinds[key]) for key in kinds}


def _typed(key: str, text: str, kind: str) -> Any:
    # KFP's names: String, Boolean, typing.List[str].
    wanted: Any = {"bool": bool, "list": list[str]}.get(kind.lower().removeprefix("typing.")[:4], str)
    try:
        if wanted is str:
            return text
        if wanted is bool:
            return msgspec.convert(text, bool, strict=False)
        return msgspec.json.decode(text, type=wanted)
    except msgspec.MsgspecError as error:
        raise SettingsError(f"{key}={text!r}: {error}", fix=f"write a {kind.lower()}") from error
