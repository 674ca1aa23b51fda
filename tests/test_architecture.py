"""The rules that hold the code in its form, run as tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOMES = {
    "mlflow": {
        "services/registry/server.py",
        "services/registry/database.py",
        "services/registry/files.py",
        "services/demo/__init__.py",
        "services/demo/shipping.py",
    },
    "kubernetes": {"services/cluster.py", "services/kubeconfig.py"},
    "google": {"services/gke.py", "services/gcs.py"},
    "requests": {"services/predictor.py", "services/gcs.py"},
    "sqlalchemy": {"services/store.py", "services/registry/database.py"},
    "streamlit": {
        "dashboard/app.py",
        "dashboard/answers.py",
        "dashboard/asking.py",
        "dashboard/runs.py",
        "dashboard/trial.py",
        "dashboard/wiring.py",
        "dashboard/widgets.py",
        "dashboard/evidence.py",
        "dashboard/operations.py",
        "dashboard/options.py",
        "dashboard/versions.py",
    },
    "plotly": {"dashboard/charts.py"},
    "pandas": {"dashboard/charts.py", "services/demo/__init__.py"},
    "pyarrow": {"services/tabular.py"},
}
"""Each foreign library → the files that may import it (pages may import streamlit too)."""


def sources() -> list[Path]:
    folders = ("services", "dashboard", "pages")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_the_import_contracts_hold() -> None:
    lint = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


@pytest.mark.parametrize("library", sorted(HOMES))
def test_each_foreign_library_has_its_home(library: str) -> None:
    strangers = {
        str(path.relative_to(ROOT))
        for path in sources()
        if library in imported(path)
        and not (library == "streamlit" and path.parent.name == "pages")
    }
    assert strangers <= HOMES[library]


def test_the_dashboard_finds_its_configuration_from_any_folder() -> None:
    # Streamlit looks beside the script, and in the folder where it was started.
    beside = ROOT / "dashboard" / ".streamlit" / "config.toml"
    assert beside.samefile(ROOT / ".streamlit" / "config.toml")


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in sources()
        if any(word in path.read_text(encoding="utf-8") for word in ("os.environ", "os.getenv"))
    }
    # Those that start foreign programs choose which variables of ours these get.
    starters = {
        "services/kubeconfig.py",
        "services/local/process.py",
        "services/local/environments.py",
    }
    assert readers <= {"services/settings.py"} | starters


def test_modules_beside_the_entrypoint_hide_no_other_module() -> None:
    # `streamlit run dashboard/app.py` puts dashboard/ first on sys.path.
    beside = {path.stem for path in (ROOT / "dashboard").glob("*.py")} - {"__init__", "__main__"}
    others = {path.stem for folder in ("pages", "services") for path in (ROOT / folder).iterdir()}
    assert not beside & (set(sys.stdlib_module_names) | others)


def test_nothing_catches_everything_but_the_two_front_doors() -> None:
    broad = {
        str(path.relative_to(ROOT))
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
    }
    assert broad <= {"dashboard/cli.py", "dashboard/widgets.py", "dashboard/worker.py"}
