"""What the Dockerfiles copy is all that their code imports. `make test-images` runs the images themselves."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("slipway", "serving", "components", "pipelines", "feature_repo")
IMAGES = [
    ("serving/runtime/Dockerfile", ["serving/runtime"]),
    (
        "components/Dockerfile",
        ["components", "pipelines", "feature_repo", "serving/runtime", "slipway/features"],
    ),
]


def _copied(dockerfile: str, into: Path) -> Path:
    """The image's /app as far as it is ours."""
    for source, target in re.findall(
        r"^COPY (\S+) /app/(\S+)$", (ROOT / dockerfile).read_text(), re.MULTILINE
    ):
        for path in ROOT.glob(source):
            if path.is_dir():
                shutil.copytree(path, into / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (into / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, into / target)
    return into


def _imports(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every module of ours that a file imports, within functions too."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield path, node.module
            elif isinstance(node, ast.Import):
                yield from ((path, name.name) for name in node.names)


def _stands(module: str, app: Path) -> bool:
    place = app.joinpath(*module.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


@pytest.mark.parametrize(("dockerfile", "folders"), IMAGES)
def test_an_image_holds_all_that_its_code_imports(
    dockerfile: str, folders: list[str], tmp_path: Path
) -> None:
    app = _copied(dockerfile, tmp_path / "app")
    found = [(path, name) for folder in folders for path, name in _imports(app / folder)]
    ours = [(path, name) for path, name in found if name.split(".")[0] in OURS]
    assert len(ours) > 50
    missing = {f"{path.relative_to(app)}: {name}" for path, name in ours if not _stands(name, app)}
    assert missing == set()


@pytest.mark.parametrize("dockerfile", [dockerfile for dockerfile, _ in IMAGES])
def test_an_image_is_not_root_and_its_packages_are_hashed(dockerfile: str) -> None:
    lines = (ROOT / dockerfile).read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 65532:65532"]
    assert all("--require-hashes" in line for line in lines if "pip install" in line)
    assert [line.split("=")[0] for line in lines if line.startswith("ARG")][:2] == [
        "ARG BUILD_BASE",
        "ARG BASE",
    ]
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM ${BUILD_BASE} AS build",
        "FROM ${BASE}",
    ]


def test_the_state_of_a_platform_stays_out_of_every_build() -> None:
    """Its folder has the credentials of S3 and of the online store."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert "**/.slipway" in rules
    copied = {
        source.split("/")[0]
        for dockerfile, _ in IMAGES
        for source in re.findall(r"^COPY ([^-\s]\S*) ", (ROOT / dockerfile).read_text(), re.MULTILINE)
    }
    assert copied == {rule[1:].split("/")[0] for rule in rules if rule.startswith("!")}
