"""The real command as a process: its streams, its start, its signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.apiserver import api_server, kubeconfig

SLIPWAY = str(Path(sys.executable).with_name("slipway"))
ROOT = Path(__file__).parents[2]


def slipway(
    *words: str, folder: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SLIPWAY, *words],
        cwd=folder,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_needs_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from dashboard.cli import main; main(['--help']);"
        "heavy = {'mlflow', 'kubernetes', 'google.cloud', 'sqlalchemy', 'pydantic', 'requests',"
        " 'rich', 'streamlit', 'pandas', 'numpy'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else 0)"
    )

    ran = python(code, tmp_path)

    assert (ran.returncode, ran.stderr) == (0, "")


def imported_by(folder: Path, *words: str) -> set[str]:
    """The names of the modules that one run of a verb has imported at its end."""
    code = (
        f"import sys; from dashboard.cli import main; code = main({list(words)});"
        "print(*sys.modules, sep='\\n'); sys.exit(code)"
    )
    ran = python(code, folder)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_a_look_at_this_machine_imports_no_client_and_nothing_that_only_plans_need(
    tmp_path: Path,
) -> None:
    heavy = {"kubernetes", "google", "requests", "sqlalchemy", "mlflow", "streamlit", "pandas"}
    heavy |= {"packaging", "filelock", "yaml", "asyncio", "statistics"}

    assert not heavy & imported_by(tmp_path, "status", "--target", "local")


def test_a_look_at_a_cluster_imports_no_model_of_its_api_and_no_other_client(
    tmp_path: Path,
) -> None:
    heavy = {"google.cloud", "grpc", "sqlalchemy", "mlflow", "streamlit", "pandas", "numpy"}
    heavy |= {"packaging", "filelock", "statistics", "http.server"}
    typed = ("kubernetes.client.models.", "kubernetes.client.api.")
    with api_server() as api:
        (tmp_path / "slipway.toml").write_text(
            '[targets.stub]\nkind = "kubernetes"\ncontext = "stub"\nnamespace = "models"\n'
            f'kubeconfig = "{kubeconfig(tmp_path, api.url)}"\n'
        )
        seen = imported_by(tmp_path, "status", "--target", "stub")

    assert {name for name in seen if name in heavy or name.startswith(typed)} == set()


def test_the_command_line_never_meets_streamlit(tmp_path: Path) -> None:
    code = (
        "import sys; from dashboard.cli import main; code = main(['doctor', '--json']);"
        "import dashboard.commands.begin, dashboard.commands.operate, dashboard.commands.watch,"
        " dashboard.commands.request, dashboard.commands.package;"
        "sys.exit('streamlit' in sys.modules)"
    )

    ran = python(code, tmp_path)

    assert ran.returncode == 0, ran.stderr


def test_without_streamlit_all_but_the_dashboard_works(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['streamlit'] = None;"
        "from dashboard.cli import main;"
        "sys.exit(main(['targets', '--json']) * 100 + main(['ui', '--json']))"
    )

    ran = python(code, tmp_path)

    assert ran.returncode == 2, ran.stderr
    assert "uv sync --extra dashboard" in ran.stderr


def test_a_fresh_folder_has_one_target_and_no_service(tmp_path: Path) -> None:
    targets = slipway("targets", "--json", folder=tmp_path)
    status = slipway("status", "--json", folder=tmp_path)

    assert [row["name"] for row in json.loads(targets.stdout)["targets"]] == ["local"]
    assert json.loads(status.stdout) == {"services": []}


def test_usage_errors_are_one_document(tmp_path: Path) -> None:
    ran = slipway("fly", "--json", folder=tmp_path)

    assert ran.returncode == 2
    assert json.loads(ran.stdout)["error"]["kind"] == "ConfigError"


def test_a_registry_that_does_not_answer_exits_with_3(tmp_path: Path) -> None:
    ran = slipway(
        "models", "--json", folder=tmp_path, environ={"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    )

    assert ran.returncode == 3
    assert json.loads(ran.stdout)["error"]["kind"] == "Unreachable"


def test_python_m_dashboard_is_the_same_command(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "dashboard", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (0, slipway("--version", folder=tmp_path).stdout)


def test_the_commands_of_a_dead_reader_end_quietly(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [SLIPWAY, "doctor"],
        cwd=tmp_path,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)

    assert ran.returncode == 141
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_watch_with_130(tmp_path: Path, number: signal.Signals) -> None:
    words = ["watch", "--model", "wine", "--alias", "champion", "--name", "wine", "--json"]
    environ = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    with subprocess.Popen(
        [SLIPWAY, *words], cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        decision = json.loads(watching.stdout.readline())
        watching.send_signal(number)
        rest = watching.stdout.read()

    assert decision["outcome"] == "Unreachable"
    assert (watching.returncode, json.loads(rest)["error"]["kind"]) == (130, "Interrupted")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_ui_serves_the_dashboard_on_loopback_and_ends_with_its_signal(tmp_path: Path) -> None:
    port = _free_port()
    with subprocess.Popen(
        [SLIPWAY, "ui", "--port", str(port)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as dashboard:
        try:
            answered = _answer(f"http://127.0.0.1:{port}/_stcore/health", dashboard)
        finally:
            dashboard.send_signal(signal.SIGTERM)
            dashboard.wait(timeout=60)

    assert answered == "ok"


def _answer(url: str, process: subprocess.Popen[bytes]) -> str:
    """What the address answers, once it does; "" when the process ended before."""
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            if process.poll() is not None:
                return ""
            time.sleep(0.25)
    return ""
