"""The house keeps its shape: sizes of modules, the direction of imports, what packages export."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import slipway
from slipway import errors

ROOT = Path(slipway.__file__).resolve().parents[1]
FOLDERS = ("slipway", "serving", "components", "pipelines", "feature_repo")
LONGEST = 500

# What each part may import, in the order of the design: slipway <- components, serving, feature_repo
# <- pipelines, cli. The embedded platform starts the runtime, and so may know it.
ALLOWED = {
    "slipway": {"slipway"},
    "slipway/local": {"slipway", "serving"},
    "slipway/cli": set(FOLDERS),
    "components": {"slipway", "components", "serving", "feature_repo"},
    "serving": {"slipway", "serving"},
    "feature_repo": {"slipway", "feature_repo"},
    "pipelines": {"slipway", "components", "serving", "feature_repo", "pipelines"},
}


def modules() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def part(path: Path) -> str:
    place = path.relative_to(ROOT).as_posix()
    return max((name for name in ALLOWED if place.startswith(f"{name}/")), key=len)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module


def test_there_is_something_to_check() -> None:
    assert len(modules()) > 50


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in modules()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_imports_run_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules()
        for line, name in imports(path)
        if name.partition(".")[0] in FOLDERS and name.partition(".")[0] not in ALLOWED[part(path)]
    ]
    assert wrong == []


def test_nothing_but_tests_imports_the_tests() -> None:
    wrong = [path for path in modules() for _, name in imports(path) if name.partition(".")[0] == "tests"]
    assert wrong == []


def packages() -> list[Path]:
    return [path for path in modules() if path.name == "__init__.py" and "__all__" in path.read_text()]


@pytest.mark.parametrize("path", packages(), ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_a_package_exports_what_it_binds_and_nothing_else(path: Path) -> None:
    """Read, not imported: some of these packages take seconds to import."""
    tree = ast.parse(path.read_text())
    exported: list[str] = []
    bound: set[str] = set()
    lazy = False
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            exported = ast.literal_eval(node.value)
        elif isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__":
            bound |= {(name.asname or name.name).partition(".")[0] for name in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
            lazy = lazy or node.name == "__getattr__"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound |= {target.id for target in targets if isinstance(target, ast.Name)}
    assert exported
    assert len(exported) == len(set(exported))
    assert lazy or set(exported) <= bound


def test_the_tree_of_errors_is_the_one_drawn() -> None:
    """The drawing at the top of errors.py names each class, below its parent."""
    drawn: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        text = line.lstrip("│├└─ ")
        name = text.split(" ")[0]
        if not text or not hasattr(errors, name):
            continue
        depth = len(line) - len(text)
        above = [item for item in above if item[0] < depth]
        drawn[name] = above[-1][1] if above else None
        above.append((depth, name))
    real = {
        name: None if kind is errors.SlipwayError else kind.__bases__[0].__name__
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.SlipwayError)
    }
    assert drawn == real
