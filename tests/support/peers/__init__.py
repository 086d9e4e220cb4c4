"""Other servers of ONNX models, each in an environment of its own, to be measured and tested beside ours.

An environment is made when it is first asked for (under .bench/, from the package index) and kept.
BENCH_PYTHON names the interpreter of all of them; those of two interpreters stand side by side. Each server
serves the same folder of ONNX models with onnxruntime on one thread, set up the fastest way that its
documentation offers: no access log, no extra worker processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.interpreter import interpreter

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ENVIRONMENTS = ROOT / ".bench"
_INSTALL_SECONDS = 900


@dataclass(frozen=True)
class Ports:
    http: int
    grpc: int
    spare: int
    """For a port that a server opens on top, such as its metrics."""


@dataclass(frozen=True)
class Launch:
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    name: str
    title: str
    requirements: tuple[str, ...]
    launch: Callable[[Path, Path, Path, Ports], Launch]
    """(bin folder of the environment, models, scratch folder, ports) → what to start."""
    ready: str = "/v2/health/ready"
    infer: str = "/v2/models/{model}/infer"
    grpc: bool = True
    many_models: bool = True

    @property
    def environment(self) -> Path:
        return ENVIRONMENTS / self.name / interpreter().tag

    def install(self) -> Path:
        """The bin folder of the peer's environment, made now if it is not there."""
        stamp = self.environment / ".installed"
        wanted = "\n".join(self.requirements)
        if not stamp.exists() or stamp.read_text() != wanted:
            uv = Path(sys.prefix) / "uv" / "bin" / "uv"
            _run([uv, "venv", "--quiet", "--clear", "--python", interpreter().executable, self.environment])
            python = self.environment / "bin" / "python"
            _run([uv, "pip", "install", "--quiet", "--python", python, *self.requirements])
            stamp.write_text(wanted)
        return self.environment / "bin"

    def prepare(self, models: Path, scratch: Path, ports: Ports) -> Launch:
        return self.launch(self.install(), models, scratch, ports)

    def spawn(self, launch: Launch, scratch: Path, log: Path) -> subprocess.Popen[bytes]:
        # ONNX Runtime's reports to its maker cost CPU: off, as ours has them.
        quiet = {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
        environment = {**os.environ, **quiet, **launch.environment}
        with log.open("wb") as out:
            return subprocess.Popen(
                launch.command,
                env=environment,
                cwd=scratch,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self, models: Path, scratch: Path, ports: Ports, log: Path) -> subprocess.Popen[bytes]:
        return self.spawn(self.prepare(models, scratch, ports), scratch, log)


def _run(command: list[str | Path]) -> None:
    subprocess.run([str(part) for part in command], check=True, timeout=_INSTALL_SECONDS)


def model_names(models: Path) -> list[str]:
    return sorted(folder.name for folder in models.iterdir() if (folder / "model.onnx").exists())


def _kserve(bin_: Path, models: Path, scratch: Path, ports: Ports) -> Launch:
    return Launch(
        [
            str(bin_ / "python"),
            str(HERE / "kserve_server.py"),
            f"--models={models}",
            f"--http_port={ports.http}",
            f"--grpc_port={ports.grpc}",
            "--enable_latency_logging=false",
            "--configure_logging=true",
            f"--log_config_file={HERE / 'quiet_log.json'}",
        ]
    )


def _mlserver(bin_: Path, models: Path, scratch: Path, ports: Ports) -> Launch:
    settings = {
        "host": "127.0.0.1",
        "http_port": ports.http,
        "grpc_port": ports.grpc,
        "metrics_port": ports.spare,
        "parallel_workers": 0,
        "debug": False,
        "metrics_dir": str(scratch),
    }
    (scratch / "settings.json").write_text(json.dumps(settings))
    for name in model_names(models):
        (scratch / name).mkdir(exist_ok=True)
        model = {
            "name": name,
            "implementation": "mlserver_model.OnnxModel",
            "parameters": {"uri": str(models / name / "model.onnx"), "version": "1"},
        }
        (scratch / name / "model-settings.json").write_text(json.dumps(model))
    return Launch([str(bin_ / "mlserver"), "start", str(scratch)], {"PYTHONPATH": str(HERE)})


def _fastapi(bin_: Path, models: Path, scratch: Path, ports: Ports) -> Launch:
    command = [
        str(bin_ / "uvicorn"),
        "fastapi_server:app",
        f"--port={ports.http}",
        "--no-access-log",
        "--loop=uvloop",
        "--http=httptools",
        "--log-level=warning",
    ]
    return Launch(command, {"PYTHONPATH": str(HERE), "MODELS": str(models)})


def _triton(bin_: Path, models: Path, scratch: Path, ports: Ports) -> Launch:
    python = interpreter().minor
    site = bin_.parent / "lib" / python / "site-packages"
    bundle = site / "pytriton" / "tritonserver"
    # The backend starts its stub beside its own library; the wheel keeps one for each Python elsewhere.
    backends = scratch / "backends" / "python"
    backends.mkdir(parents=True)
    stub = bundle / "python_backend_stubs" / python.removeprefix("python") / "triton_python_backend_stub"
    for source in [*(bundle / "backends" / "python").iterdir(), stub]:
        (backends / source.name).symlink_to(source)
    repository = scratch / "repository"
    for name in model_names(models):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / "model.py").symlink_to(HERE / "triton_model.py")
        (repository / name / "1" / "model.onnx").symlink_to((models / name / "model.onnx").resolve())
    describe = [str(bin_ / "python"), str(HERE / "triton_config.py"), str(repository)]
    subprocess.run(describe, check=True, timeout=60)
    return Launch(
        [
            str(bundle / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={scratch / 'backends'}",
            f"--http-port={ports.http}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-port={ports.spare}",
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
            "--model-control-mode=explicit",
            "--load-model=*",
            "--log-verbose=0",
            "--log-info=0",
        ],
        {
            "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{interpreter().base / 'lib'}",
            "PYTHONPATH": str(site),
            "PATH": f"{bin_}:{os.environ['PATH']}",
        },
    )


def _bentoml(bin_: Path, models: Path, scratch: Path, ports: Ports) -> Launch:
    command = [
        str(bin_ / "bentoml"),
        "serve",
        "bentoml_server:OnnxService",
        f"--working-dir={HERE}",
        "--host=127.0.0.1",
        f"--port={ports.http}",
    ]
    environment = {
        "MODELS": str(models),
        "BENTOML_HOME": str(scratch / "bento"),
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_CONFIG_OPTIONS": "api_server.logging.access.enabled=false",
    }
    return Launch(command, environment)


def _litserve(bin_: Path, models: Path, scratch: Path, ports: Ports) -> Launch:
    command = [str(bin_ / "python"), str(HERE / "litserve_server.py"), str(models), str(ports.http)]
    return Launch(command)


def _bare(bin_: Path, models: Path, scratch: Path, ports: Ports) -> Launch:
    return Launch([str(bin_ / "python"), str(HERE / "bare_server.py"), str(ports.http)])


_ONNX = ("onnxruntime==1.23.2", "numpy")

PEERS = {
    peer.name: peer
    for peer in (
        Peer("kserve", "KServe SDK 0.21", ("kserve==0.21.0", *_ONNX, "setuptools"), _kserve),
        Peer("mlserver", "MLServer 1.7.1", ("mlserver==1.7.1", "uvloop<0.22", *_ONNX), _mlserver),
        Peer("bare", "bare uvloop, no model", ("uvloop",), _bare, grpc=False, many_models=False),
        Peer("triton", "Triton, Python backend", ("nvidia-pytriton==0.7.0", *_ONNX), _triton),
        Peer("fastapi", "FastAPI + uvicorn", ("fastapi", "uvicorn[standard]", *_ONNX), _fastapi, grpc=False),
        Peer(
            "bentoml",
            "BentoML",
            ("bentoml>=1.4.39,<1.5", *_ONNX),
            _bentoml,
            ready="/readyz",
            infer="/infer",
            grpc=False,
            many_models=False,
        ),
        Peer(
            "litserve",
            "LitServe",
            ("litserve==0.2.19", *_ONNX),
            _litserve,
            ready="/health",
            infer="/predict",
            grpc=False,
            many_models=False,
        ),
    )
}
