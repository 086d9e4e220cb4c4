"""The front of the command line: what is imported when, exit codes, errors, help and completion."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import slipway
from slipway.cli import app as front
from slipway.cli import main, verbs
from slipway.errors import GateNotPassed, PlatformDown, SettingsError, SlipwayError

CLI = Path(slipway.__file__).parent / "cli"
HEAVY = {
    "boto3",
    "botocore",
    "feast",
    "google",
    "grpc",
    "kfp",
    "kserve",
    "mlflow",
    "numpy",
    "onnx",
    "onnxruntime",
    "pandas",
    "polars",
    "pyarrow",
    "redis",
    "requests",
    "rich",
    "sklearn",
    "sqlalchemy",
}


def imported_by(*calls: list[str]) -> set[str]:
    """The modules that these calls of the command line, in one process, have imported."""
    code = (
        "import sys, contextlib, io, json\n"
        "before = set(sys.modules)\n"
        "from slipway.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    for call in json.loads(sys.argv[1]):\n"
        "        main(call)\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, json.dumps(calls)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(answer.stdout))


class TestImports:
    @pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-verb"], ["up", "--help"]])
    def test_the_front_imports_nothing_heavy(self, arguments: list[str]) -> None:
        modules = imported_by(arguments)
        assert not {module.partition(".")[0] for module in modules} & HEAVY
        # typer and the standard library; each further one costs about a third of a millisecond.
        assert len(modules) < 280

    def test_help_imports_no_verb(self) -> None:
        assert {module for module in imported_by(["--help"]) if module.startswith("slipway.")} == {
            "slipway.cli",
            "slipway.cli.app",
            "slipway.cli.output",
            "slipway.cli.verbs",
            "slipway.errors",
        }

    def test_verbs_explain_themselves_without_what_they_work_with(self) -> None:
        modules = imported_by(*([verb.name, "--help"] for verb in verbs.VERBS))
        assert not {module.partition(".")[0] for module in modules} & HEAVY


class TestVerbs:
    @pytest.mark.parametrize("verb", verbs.VERBS, ids=lambda verb: verb.name)
    def test_each_loads_and_explains_itself(
        self, verb: verbs.Verb, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert isinstance(importlib.import_module(verb.module).app, typer.Typer)
        assert main([verb.name, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Usage: slipway {verb.name} ")
        assert len(verb.help) < 60
        assert verb.help[0].isupper()
        assert not verb.help.endswith(".")

    def test_each_module_with_an_app_is_in_the_table(self) -> None:
        with_app = {
            f"slipway.cli.{path.stem}"
            for path in CLI.glob("*.py")
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == "app" for target in node.targets)
        } - {"slipway.cli.app"}
        assert with_app == {verb.module for verb in verbs.VERBS}

    def test_the_help_groups_them_in_order(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 0
        text = capsys.readouterr().out
        assert text.index("The embedded platform:") < text.index("  up  ") < text.index("  down  ")
        assert text.index("  logs  ") < text.index("Shell:") < text.index("  completion  ")
        for verb in verbs.VERBS:
            assert verb.help in " ".join(text.split())


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """A verb `fail` that raises what its test says."""

    class Failing:
        raises: BaseException | None = None

    application = verbs.new_app()

    @application.command()
    def fail(json: bool = False) -> None:
        if Failing.raises is not None:
            raise Failing.raises

    module = type(sys)("slipway.cli.fail")
    module.app = application  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slipway.cli.fail", module)
    monkeypatch.setattr(verbs, "VERBS", (*verbs.VERBS, verbs.Verb("fail", verbs.SHELL, "Fail", "components")))
    return Failing  # type: ignore[return-value]


class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (None, 0),
            (SlipwayError("failed"), 1),
            (SettingsError("wrong"), 2),
            (PlatformDown("down"), 3),
            (GateNotPassed("stopped"), 4),
            (KeyError("a defect"), 70),
            (KeyboardInterrupt(), 130),
            (typer.Exit(3), 3),
        ],
    )
    def test_by_what_was_raised(
        self, broken: type, error: BaseException | None, code: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken.raises = error  # type: ignore[attr-defined]
        assert main(["fail"]) == code
        capsys.readouterr()
        assert main(["fail", "--json"]) == code
        text = capsys.readouterr().err
        if code and not isinstance(error, (KeyError, typer.Exit)):
            assert json.loads(text)["error"]["exit_code"] == code

    @pytest.mark.parametrize(
        "arguments",
        [["nothing"], ["--nothing"], ["up", "--nothing"], ["up", "extra"], ["completion", "tcsh"]],
    )
    def test_wrong_words(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments) == 2
        assert capsys.readouterr().out == ""

    def test_a_reader_that_goes_away(self) -> None:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from slipway.cli import main; sys.exit(main(['completion', 'bash']))",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == front.READER_GONE


class TestErrors:
    def test_what_where_and_fix(self, broken: type, capsys: pytest.CaptureFixture[str]) -> None:
        broken.raises = PlatformDown("it is down", where="here", fix="slipway up")  # type: ignore[attr-defined]
        assert main(["fail"]) == 3
        answer = capsys.readouterr()
        assert answer.out == ""
        assert answer.err == "error: here: it is down\n  to mend it: slipway up\n"

    def test_as_json(self, broken: type, capsys: pytest.CaptureFixture[str]) -> None:
        broken.raises = PlatformDown("it is down", where="here", fix="slipway up")  # type: ignore[attr-defined]
        assert main(["fail", "--json"]) == 3
        answer = capsys.readouterr()
        assert answer.out == ""
        assert json.loads(answer.err) == {
            "error": {
                "kind": "PlatformDown",
                "what": "it is down",
                "where": "here",
                "fix": "slipway up",
                "exit_code": 3,
            }
        }

    def test_a_defect_shows_its_traceback(self, broken: type, capsys: pytest.CaptureFixture[str]) -> None:
        broken.raises = ZeroDivisionError("by us")  # type: ignore[attr-defined]
        assert main(["fail"]) == 70
        text = capsys.readouterr().err
        assert "Traceback" in text
        assert "ZeroDivisionError: by us" in text
        assert "report it" in text

    @pytest.mark.parametrize(("missing", "code"), [("mlflow.tracking", 1), ("slipway.nothing", 70)])
    def test_a_missing_package_names_its_extra(
        self, broken: type, missing: str, code: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken.raises = ModuleNotFoundError("no", name=missing)  # type: ignore[attr-defined]
        assert main(["fail"]) == code
        assert ("pip install 'slipway[components]'" in capsys.readouterr().err) is (code == 1)

    def test_a_misspelt_verb_gets_a_hint(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["statsu"]) == 2
        assert "there is no verb 'statsu'; did you mean status?" in capsys.readouterr().err

    def test_without_typer_one_line_says_so(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "typer", None)
        assert main(["up"]) == 1
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        assert "pip install 'slipway[cli]'" in text


class TestCompletion:
    def complete(self, *words: str) -> list[str]:
        answer = subprocess.run(
            [Path(sys.executable).with_name("slipway")],
            env={
                **os.environ,
                front.COMPLETE: "complete_bash",
                "COMP_WORDS": " ".join(("slipway", *words)),
                "COMP_CWORD": str(len(words)),
            },
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert answer.stderr == ""
        return answer.stdout.split()

    def test_verbs_options_and_values(self) -> None:
        assert self.complete("") == [verb.name for verb in verbs.VERBS]
        assert self.complete("stat") == ["status"]
        assert self.complete("status", "--j") == ["--json"]
        assert self.complete("completion", "z") == ["zsh"]

    def test_the_script_works_in_bash(self) -> None:
        script = (
            "source <(slipway completion bash); COMP_WORDS=(slipway st); COMP_CWORD=1; "
            '_slipway_completion slipway; echo "${COMPREPLY[@]}"'
        )
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        answer = subprocess.run(
            ["/bin/bash", "-c", script],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (answer.stdout.strip(), answer.stderr) == ("status", "")

    @pytest.mark.parametrize("shell", ["zsh", "fish"])
    def test_other_shells_have_their_script(self, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["completion", shell]) == 0
        assert front.COMPLETE in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"slipway {slipway.__version__}\n"


def test_a_full_disk_is_named_where_s3_says_no_more_than_500(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from slipway.cli.app import _show
    from slipway.errors import ObjectStoreUnavailable
    from slipway.local import platform

    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    assert _show(ObjectStoreUnavailable("S3 answered 500", fix="try again later"), json=False) == 3
    assert "try again later" in capsys.readouterr().err
    monkeypatch.setattr(platform, "_LEAST_SPACE", 2**62)
    _show(ObjectStoreUnavailable("S3 answered 500", fix="try again later"), json=False)
    assert "MiB left, and the servers need" in capsys.readouterr().err
    monkeypatch.setenv("SLIPWAY_PROFILE", "eks")
    _show(ObjectStoreUnavailable("S3 answered 500", fix="try again later"), json=False)
    assert "try again later" in capsys.readouterr().err
