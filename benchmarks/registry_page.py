"""Row 8: the registry page with 10,000 versions against the raw search of the same rows.

    .venv/bin/python benchmarks/registry_page.py [--versions N] [--rounds N]

Ours is what the page needs: `models()`, and `versions()` with aliases, metrics and parameters
joined. The peers read less. On a tracking server: the same pages of versions and runs by bare HTTP,
the bytes thrown away unread (the floor). On SQLite: the SELECT of the same cells without making
anything of them (the floor). On both, MLflow's own client with the same batches, which is what a
page would otherwise be written with. Rounds alternate (ABBA); medians and ranges are printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from mlflow import MlflowClient
from mlflow.entities import ViewType

from services.registry import MlflowRegistry
from tests.contract.mlflow_rows import fill
from tests.contract.mlflow_servers import tracking_server

MODEL = "crowd"
CELLS = {
    "registered_model_aliases": "SELECT alias, version FROM registered_model_aliases"
    " WHERE name = ?",
    "model_versions": "SELECT version, creation_time, last_updated_time, description, user_id,"
    " source, run_id, status, status_message FROM model_versions WHERE name = ?"
    " ORDER BY version DESC",
    "model_version_tags": "SELECT version, key, value FROM model_version_tags WHERE name = ?",
    "latest_metrics": "SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN"
    " (SELECT run_id FROM model_versions WHERE name = ?)",
    "params": "SELECT run_uuid, key, value FROM params WHERE run_uuid IN"
    " (SELECT run_id FROM model_versions WHERE name = ?)",
    "runs": "SELECT run_uuid, experiment_id, lifecycle_stage, artifact_uri FROM runs WHERE"
    " run_uuid IN (SELECT run_id FROM model_versions WHERE name = ?)",
}


def raw_cells(path: Path) -> int:
    """The same cells by sqlite3; the number of versions."""
    with sqlite3.connect(path) as database:
        rows = {name: database.execute(query, (MODEL,)).fetchall() for name, query in CELLS.items()}
    database.close()
    return len(rows["model_versions"])


def by_mlflows_client(uri: str) -> int:
    """The same rows by MLflow's client, in the same batches."""
    client = MlflowClient(uri, registry_uri=uri)
    client.get_registered_model(MODEL)
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(
            f"name = '{MODEL}'", 1000, ["version_number DESC"], token
        )
        found += page
        token = page.token
        if not token:
            break
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
    for start in range(0, len(found), 500):
        among = ", ".join(f"'{v.run_id}'" for v in found[start : start + 500])
        client.search_runs(
            experiments, f"attributes.run_id IN ({among})", ViewType.ALL, max_results=500
        )
    return len(found)


def recorded(address: str) -> Sequence[tuple[str, bytes | None]]:
    """The requests that carry the rows: pages of versions, batches of runs."""
    requests: list[tuple[str, bytes | None]] = []
    run_ids: list[str] = []
    token = ""
    while True:
        query = urllib.parse.urlencode(
            {
                "filter": f"name = '{MODEL}'",
                "max_results": 1000,
                "order_by": "version_number DESC",
                **({"page_token": token} if token else {}),
            }
        )
        url = f"{address}/api/2.0/mlflow/model-versions/search?{query}"
        requests.append((url, None))
        with urllib.request.urlopen(url, timeout=120) as answer:
            page = json.load(answer)
        run_ids += [row["run_id"] for row in page["model_versions"]]
        token = page.get("next_page_token", "")
        if not token:
            break
    for start in range(0, len(run_ids), 500):
        among = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + 500])
        body = {
            "experiment_ids": ["0"],
            "filter": f"attributes.run_id IN ({among})",
            "run_view_type": "ALL",
            "max_results": 500,
        }
        requests.append((f"{address}/api/2.0/mlflow/runs/search", json.dumps(body).encode()))
    return requests


def bare_http(requests: Sequence[tuple[str, bytes | None]]) -> int:
    """Send them one after the other and throw the answers away; the bytes that came."""
    total = 0
    for url, body in requests:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            total += len(answer.read())
    return total


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(title: str, sides: dict[str, Callable[[], object]], rounds: int) -> None:
    """Alternate the sides, one warm-up first; the first one named is ours."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for work in sides.values():
        work()
    for turn in range(rounds):
        order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
        for name in order:
            times[name].append(timed(sides[name]))
    ours = statistics.median(next(iter(times.values())))
    print(f"\n{title}", flush=True)
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(
            f"  {name:34} {middle:7.3f} s  ({min(taken):.3f} to {max(taken):.3f})"
            f"   ours/this {ours / middle:5.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlflow", "sqlalchemy"))
    print(f"Python {platform.python_version()}, {packages}; {platform.machine()}")
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as name:
        folder = Path(name)
        with tracking_server(folder) as address:
            path = folder / "mlflow.db"
            fill(path, MODEL, asked.versions)
            sqlite = MlflowRegistry(f"sqlite:///{path}", timeout_s=60)
            server = MlflowRegistry(address, timeout_s=60)
            assert len(sqlite.versions(MODEL)) == len(server.versions(MODEL)) == asked.versions
            assert raw_cells(path) == by_mlflows_client(f"sqlite:///{path}") == asked.versions
            sides: dict[str, Callable[[], object]] = {
                "ours: versions(), joined": lambda: sqlite.versions(MODEL),
                "raw SELECT of the same cells": lambda: raw_cells(path),
                "MLflow's client, same batches": lambda: by_mlflows_client(f"sqlite:///{path}"),
            }
            compare(f"SQLite, {asked.versions:,} versions", sides, asked.rounds)
            compare("SQLite, models()", {"ours: models()": sqlite.models}, asked.rounds)
            requests = recorded(address)
            sides = {
                "ours: versions(), joined": lambda: server.versions(MODEL),
                "bare HTTP, answers thrown away": lambda: bare_http(requests),
                "MLflow's client, same batches": lambda: by_mlflows_client(address),
            }
            compare(f"Tracking server, {asked.versions:,} versions", sides, asked.rounds)
            first = requests[0][0]
            sides = {
                "ours: models(), counts known": server.models,
                "one raw search of 1,000 versions": lambda: bare_http([(first, None)]),
            }
            compare("Tracking server, models()", sides, asked.rounds)


if __name__ == "__main__":
    main()
