"""Target `local` with real processes, for the tests that need it: small models, plans, a stream.

Used by the tiers `local` and `contract`. Whatever a test starts is ended with its fixture.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psutil

from services import planning
from services.domain import (
    Intent,
    Mode,
    Outcome,
    Package,
    PackageKind,
    Plan,
    Release,
    Service,
    VersionRef,
)
from services.local.journal import LocalJournal
from services.local.serving import LocalServing
from services.local.state import ServiceFolder
from tests.constant import save_constant

EXAMPLE = json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 2.0]]}})
MISFIT = json.dumps({"dataframe_split": {"columns": ["other"], "data": [[1.0]]}})

BROKEN = 8
"""Number of the version whose files are incomplete."""
SLOW = 9
"""Number of the version that takes a minute to load."""

_SLOW_MODEL = """
import time
import mlflow

class Slow(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        time.sleep(60)
    def predict(self, context, model_input: list[str], params=None):
        return model_input

mlflow.models.set_model(Slow())
"""


def save_models(folder: Path) -> Path:
    """Save versions 1 to 3, which answer their own number, a BROKEN and a SLOW one."""
    import mlflow
    import pandas as pd
    from sklearn.dummy import DummyRegressor

    rows = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    for number in (1, 2, 3):
        save_constant(folder / str(number), float(number), rows, ["mlflow", "scikit-learn"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = DummyRegressor(strategy="constant", constant=1.0).fit(rows, [1.0, 1.0])
        mlflow.sklearn.save_model(
            model,
            folder / str(BROKEN),
            signature=mlflow.models.infer_signature(rows, model.predict(rows)),
            pip_requirements=["mlflow", "scikit-learn"],
        )
        source = folder / "slow_model.py"
        source.write_text(_SLOW_MODEL)
        mlflow.pyfunc.save_model(
            folder / str(SLOW), python_model=source, pip_requirements=["mlflow"]
        )
    for path in (folder / str(BROKEN)).glob("model.*"):
        path.unlink()
    return folder


@dataclass
class Machine:
    """One state folder with its services."""

    root: Path
    models: Path
    serving: LocalServing = field(init=False)
    journal: LocalJournal = field(init=False)

    def __post_init__(self) -> None:
        self.serving = LocalServing(self.root, "local")
        self.journal = LocalJournal(self.root)

    def intent(self, number: int, name: str = "wine", **fields: object) -> Intent:
        """The intent of one version, as `prepare_deploy` would make it."""
        intent = Intent(
            service=name,
            version=VersionRef("wine", number),
            package=Package(PackageKind.FOLDER, str(self.models / str(number)), f"{number:064x}"),
            mode=Mode.LOCAL,
            example=EXAMPLE,
        )
        return self.serving.default_intent(replace(intent, **fields))  # type: ignore[arg-type]  # by name

    def deploy_plan(self, number: int, name: str = "wine", **fields: object) -> Plan:
        """The plan that deploys one version."""
        intent = self.intent(number, name, **fields)
        current = self.serving.service(name)
        return planning.plan_deploy(current, intent, target="local", namespace="")

    def apply(self, plan: Plan) -> Release:
        """Record and write a plan."""
        release = self.journal.begin(plan, "ana", "test")
        self.serving.apply(plan, release)
        return release

    def carry_out(self, plan: Plan) -> Release:
        """Apply a plan and wait for its outcome."""
        return self.outcome(self.apply(plan))

    def deploy(self, number: int, name: str = "wine", **fields: object) -> Release:
        """Deploy one version and wait for the outcome."""
        return self.carry_out(self.deploy_plan(number, name, **fields))

    def service(self, name: str = "wine") -> Service:
        """A service that must be there."""
        found = self.serving.service(name)
        assert found is not None
        return found

    def outcome(self, release: Release) -> Release:
        """Wait until the supervisor has recorded how a release ended."""

        def now() -> Release:
            return next(
                r for r in self.journal.history(release.service) if r.number == release.number
            )

        eventually(lambda: now().outcome is not Outcome.OPEN, 200)
        return now()

    def processes(self, name: str = "wine") -> list[psutil.Process]:
        """Every process that runs for a service: its supervisor and the model servers."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                mine = any(str(self.root) in word for word in words)
                if mine and (name in words or f"/services/{name}/" in " ".join(words)):
                    found.append(process)
        return found

    def model_servers(self, name: str = "wine") -> dict[int, psutil.Process]:
        """The MLServer processes by workload."""
        seen = ServiceFolder(self.root, name).seen()
        assert seen is not None
        found = {}
        for workload in seen.workloads:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended after it was seen
                if workload.process:
                    found[workload.number] = psutil.Process(workload.process.pid)
        return found

    def supervisor(self, name: str = "wine") -> psutil.Process:
        """The supervisor's process."""
        process = ServiceFolder(self.root, name).supervisor()
        assert process is not None
        return psutil.Process(process.pid)

    def port(self, name: str = "wine") -> int:
        """The port of the service's address."""
        port = urlsplit(self.serving.endpoint(name).base_url).port
        assert port is not None
        return port

    def ask(self, name: str = "wine", **headers: str) -> tuple[float, str]:
        """One prediction through the gateway: the answer, and the release that gave it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(name), timeout=30)
        with contextlib.closing(connection):
            return _asked(connection, headers)

    def end(self) -> None:
        """End every process that was started below this state folder."""
        for path in (self.root / "services").glob("*"):
            supervisor = ServiceFolder(self.root, path.name).supervisor()
            if supervisor is not None and supervisor.alive():
                psutil.Process(supervisor.pid).terminate()
        for path in (self.root / "services").glob("*"):
            eventually(lambda name=path.name: not self.processes(name), 30)  # type: ignore[misc]  # mypy infers no default arguments of a lambda


def _asked(connection: http.client.HTTPConnection, headers: dict[str, str]) -> tuple[float, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(
        "POST", "/invocations", EXAMPLE, {"content-type": "application/json", **named}
    )
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {body[:200]!r}")
    return json.loads(body)["predictions"][0], answer.headers["x-slipway-release"]


class Stream:
    """Predictions at a steady rate, in the background, on kept and on new connections."""

    def __init__(self, port: int, rate: float) -> None:
        self.answers: list[float] = []
        self.failures: list[str] = []
        self._port = port
        self._every_s = 1 / rate
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(kept,)) for kept in (True, False)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, kept: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        start = time.monotonic()
        for turn in itertools.count():
            wait = start + turn * 2 * self._every_s - time.monotonic()
            if self._over.wait(max(wait, 0)):
                break
            try:
                self.answers.append(_asked(connection, {})[0])
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                self.failures.append(repr(error))
                connection.close()
            if not kept:
                connection.close()
        connection.close()


def eventually(holds: Callable[[], bool], within_s: float) -> None:
    """Wait until it holds; fails the test when it does not in time."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
