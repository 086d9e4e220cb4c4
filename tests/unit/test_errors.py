"""The exception tree: what an error tells, and that the drawing at the top of the file is true."""

from __future__ import annotations

import inspect
import pickle

import pytest

from slipway import errors
from slipway.errors import GateNotPassed, ObjectNotFound, Overloaded, SlipwayError

ALL = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, SlipwayError)
}


def drawn_tree() -> dict[str, str | None]:
    """Child → parent, read from the module's docstring."""
    assert errors.__doc__ is not None
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines()[2:]:
        bare = line.lstrip("│ ├└─")
        if not bare:
            continue
        name = bare.split()[0]
        del path[(len(line) - len(bare)) // 4 :]
        parents[name] = path[-1] if path else None
        path.append(name)
    return parents


def test_the_drawing_is_the_code() -> None:
    real = {name: None if kind is SlipwayError else kind.__base__.__name__ for name, kind in ALL.items()}
    assert drawn_tree() == real


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = ObjectNotFound("there is no such object", where="s3://a/b", fix="publish it")
    assert str(error) == "s3://a/b: there is no such object\n  to mend it: publish it"
    assert (error.what, error.where, error.fix) == ("there is no such object", "s3://a/b", "publish it")


@pytest.mark.parametrize("kind", ALL.values(), ids=lambda kind: kind.__name__)
def test_errors_cross_process_borders_whole(kind: type[SlipwayError]) -> None:
    sent = kind("what", where="where", fix="fix")
    received = pickle.loads(pickle.dumps(sent))
    assert type(received) is kind
    assert str(received) == str(sent)
    assert received.__dict__ == sent.__dict__


def test_extra_fields_survive_too() -> None:
    assert pickle.loads(pickle.dumps(Overloaded("full", retry_after=2.5))).retry_after == 2.5


def test_exit_codes_tell_scripts_apart() -> None:
    assert SlipwayError.exit_code == 1
    assert errors.SettingsError.exit_code == errors.DataError.exit_code == 2
    assert errors.PlatformDown.exit_code == errors.ObjectStoreUnavailable.exit_code == 3
    assert GateNotPassed.exit_code == errors.ApprovalMissing.exit_code == 4
