"""Which environment a model gets, and building one: with the real uv and a real index."""

from __future__ import annotations

import importlib.metadata as installed
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from services.errors import ConfigError, NotDeployable, NotFound
from services.local.environments import Environment, Environments

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OLD = ("scikit-learn==1.7.2", "numpy==2.2.6", "pandas<3")
"""A small library set that nobody has beside this version of Slipway."""


def choose(root: Path, *requirements: str, python: str | None = None) -> Environment:
    return Environments(root).choose(requirements, python)


# ── Choosing ──────────────────────────────────────────────────────────────────────────────────


def test_slipways_own_environment_does_where_it_fits(tmp_path: Path) -> None:
    pinned = f"scikit-learn=={installed.version('scikit-learn')}"
    chosen = choose(tmp_path, "# by MLflow", pinned, "", "numpy>=2 # why", python=f"{HERE}.1")
    assert (chosen.own, chosen.ready, chosen.reasons) == (True, True, ())
    assert chosen.python == Path(sys.executable)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("scikit-learn==1.5.2", "scikit-learn 1.5.2 is required, {scikit-learn} is installed."),
        ("numpy<2", "numpy <2 is required, {numpy} is installed."),
        ("statsmodels", "statsmodels is required, none is installed."),
        ("Scikit_Learn == 1.5.*", "Scikit_Learn 1.5.* is required, {scikit-learn} is installed."),
        ("uvicorn[nothere]==0.1", "uvicorn 0.1 is required, {uvicorn} is installed."),
        ("mlflow[gateway]", "slowapi <1,>=0.1.9 is required, none is installed."),
    ],
)
def test_each_misfit_is_said_in_words(tmp_path: Path, line: str, reason: str) -> None:
    names = ("scikit-learn", "numpy", "uvicorn")
    versions = {name: installed.version(name) for name in names}
    for name, version in versions.items():
        reason = reason.replace(f"{{{name}}}", version)
    assert reason in choose(tmp_path, line).reasons


def test_another_python_is_a_misfit_of_its_own(tmp_path: Path) -> None:
    other = "3.12" if HERE == "3.11" else "3.11"
    chosen = choose(tmp_path, python=f"{other}.4")
    assert chosen.reasons == (f"Python {other} is required, Slipway runs on {HERE}.",)
    assert (chosen.own, chosen.ready, chosen.python_version) == (False, False, other)


@pytest.mark.parametrize("python", ["3.8.10", "3.13.0", "4.0", "two", ""])
def test_a_python_that_mlserver_does_not_know_is_refused(tmp_path: Path, python: str) -> None:
    with pytest.raises(NotDeployable, match="Python"):
        choose(tmp_path, python=python)


def test_a_requirement_for_another_system_does_not_count(tmp_path: Path) -> None:
    assert choose(tmp_path, 'pywin32==1; sys_platform == "win32"').own


def test_a_marker_is_judged_by_the_models_python(tmp_path: Path) -> None:
    chosen = choose(tmp_path, 'tomli==2.0.1; python_version < "3.11"', python="3.10.2")
    assert "tomli==2.0.1" in chosen.requirements


def test_skops_is_added_for_a_model_that_is_saved_as_skops(tmp_path: Path) -> None:
    environments = Environments(tmp_path)
    assert "skops" in environments.choose(OLD, None, ("skops",)).requirements
    pinned = environments.choose((*OLD, "skops==0.13.0"), None, ("skops",)).requirements
    assert [line for line in pinned if line.startswith("skops")] == ["skops==0.13.0"]


def test_the_digest_is_of_the_content_and_not_of_its_order(tmp_path: Path) -> None:
    assert choose(tmp_path, *OLD).digest == choose(tmp_path, *reversed(OLD), "# x").digest
    assert choose(tmp_path, *OLD).digest != choose(tmp_path, *OLD[:2]).digest


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://evil.example/simple",
        "--extra-index-url=https://evil.example",
        "-r more.txt",
        "-c constraints.txt",
        "-e .",
        "--find-links=/tmp",
        "https://evil.example/a.whl",
        "git+https://evil.example/a.git",
        "a @ git+https://evil.example/a.git",
        "a @ file:///etc/passwd",
        "./a.whl",
        "code/a-1.0-py3-none-any.whl",
        "${HOME}",
        "numpy==1.0 --hash=sha256:00",
        "numpy==1.0\n--index-url=https://evil.example",
        "numpy; $(id)",
        "\x1b[2Jnumpy",
    ],
)
def test_a_line_that_is_no_name_with_versions_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(NotDeployable, match="requirements cannot be used") as refused:
        choose(tmp_path, line)
    assert refused.value.why.isprintable()


def test_nothing_of_a_models_marker_reaches_uv(tmp_path: Path) -> None:
    chosen = choose(tmp_path, 'numpy==2.0; sys_platform != "${SECRET}"')
    assert "numpy==2.0" in chosen.requirements


# ── Building ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Environments, Environment, list[str]]:
    """The old set, built for real by two builders at once; with what both reported."""
    environments = Environments(tmp_path_factory.mktemp("environments"))
    chosen = environments.choose(OLD, None, ("skops",))
    lines: list[str] = []
    made: list[Environment] = []

    def build() -> None:
        made.append(environments.make(chosen, lambda line, _: lines.append(line)))

    builders = [threading.Thread(target=build) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert made[0] == made[1]
    return environments, made[0], lines


Built = tuple[Environments, Environment, list[str]]


@pytest.mark.local
def test_two_builders_at_once_build_once(built: Built) -> None:
    _, _, lines = built
    assert sum(line.startswith("Installed") for line in lines) == 1
    assert "Waiting for another build of the same environment." in lines


@pytest.mark.local
def test_a_built_environment_has_the_models_versions_and_the_servers(built: Built) -> None:
    _, made, _ = built
    script = (
        "import sklearn; from importlib.metadata import version;"
        "print(sklearn.__version__, version('mlserver'))"
    )
    ran = subprocess.run([made.python, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["1.7.2", installed.version("mlserver")]


@pytest.mark.local
def test_a_built_environment_is_found_again_without_building(built: Built) -> None:
    environments, made, _ = built
    again = environments.choose(OLD, None, ("skops",))
    reported: list[str] = []
    assert environments.make(again, lambda line, _: reported.append(line)) == made == again
    assert reported == []


def test_what_no_release_needs_can_be_removed(tmp_path: Path) -> None:
    environments = Environments(tmp_path)
    kept, spare = choose(tmp_path, *OLD).digest, choose(tmp_path, *OLD[:2]).digest
    for digest in (kept, spare):
        (tmp_path / digest).mkdir()
        (tmp_path / digest / "slipway.json").write_text("{}")
    assert environments.unused({kept}) == (spare,)
    assert environments.size_bytes(spare) == 2
    environments.remove(spare)
    assert environments.unused(set()) == (kept,)
    assert not environments.choose(OLD[:2], None).ready


@pytest.mark.parametrize("digest", ["../..", "0" * 32, ""])
def test_what_is_no_environment_is_not_removed(tmp_path: Path, digest: str) -> None:
    with pytest.raises(NotFound):
        Environments(tmp_path / "environments").remove(digest)


@pytest.mark.local
def test_libraries_that_do_not_go_together_are_named_in_the_resolvers_words(tmp_path: Path) -> None:
    environments = Environments(tmp_path)
    with pytest.raises(NotDeployable) as refused:
        environments.make(choose(tmp_path, "mlflow==2.9.2"))
    assert "mlserver-mlflow==1.7.1 depends on mlflow>=2.19.0" in refused.value.why
    assert [left.name for left in tmp_path.iterdir() if left.is_dir()] == []


@pytest.mark.local
def test_an_index_that_does_not_answer_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(NotDeployable) as refused:
        Environments(tmp_path / "root").make(choose(tmp_path, *OLD))
    assert "The package index did not answer" in refused.value.why


@pytest.mark.local
def test_a_python_that_is_not_to_be_had_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotDeployable, match=r"Python 3\.9 is not on this machine"):
        Environments(tmp_path / "root").make(choose(tmp_path, python="3.9.1"))


def fake_uv(folder: Path, script: str) -> Path:
    path = folder / "uv"
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(script)}")
    path.chmod(0o700)
    return path


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    # A disk cannot be filled here without harm: these are uv's words for it.
    words = "error: Failed to install: a.whl\n  Caused by: No space left on device (os error 28)"
    uv = fake_uv(tmp_path, f"echo '{words}'; exit 2")
    with pytest.raises(NotDeployable, match="The disk is full"):
        Environments(tmp_path / "root", uv).make(choose(tmp_path, *OLD))


def test_a_report_that_raises_ends_the_build_and_leaves_nothing(tmp_path: Path) -> None:
    uv = fake_uv(tmp_path, "echo going; exec sleep 600")

    def cancel(line: str, _: float | None) -> None:
        if line == "going":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Environments(tmp_path / "root", uv).make(choose(tmp_path, *OLD), cancel)
    assert [left for left in (tmp_path / "root").iterdir() if left.is_dir()] == []


def test_a_builder_that_was_killed_is_followed_by_a_clean_build(tmp_path: Path) -> None:
    root = tmp_path / "root"
    uv = fake_uv(tmp_path, 'echo half > half; mkdir -p "$8/bin"; echo going; exec sleep 600')
    script = f"""
from pathlib import Path
from services.local.environments import Environments
environments = Environments(Path({str(root)!r}), Path({str(uv)!r}))
chosen = environments.choose({OLD!r}, None)
environments.make(chosen, lambda line, _: print(line, flush=True))
"""
    builder = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert builder.stdout is not None
    while "going" not in builder.stdout.readline():
        pass
    os.killpg(builder.pid, signal.SIGKILL)
    builder.wait()
    left = [entry for entry in root.iterdir() if entry.is_dir()]
    assert left, "the killed build left its half behind"

    failing = fake_uv(tmp_path, "echo 'error: nothing'; exit 2")
    chosen = choose(root, *OLD)
    assert not chosen.ready
    with pytest.raises(NotDeployable):
        Environments(root, failing).make(chosen)
    assert not any(entry in left for entry in root.iterdir() if chosen.digest in entry.name)


def test_without_uv_the_fix_is_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="pip install uv"):
        Environments(tmp_path).make(choose(tmp_path, *OLD))
