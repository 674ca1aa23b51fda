"""Thousands of versions in MLflow's own tables in a second; its client would take minutes."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from uuid import uuid4

START_MS = 1_700_000_000_000
METRICS = ("accuracy", "f1", "log_loss", "precision", "recall")
PARAMS = ("C", "depth", "seed", "solver", "trees")


def fill(path: Path, model: str, versions: int, runs: int | None = None) -> None:
    """Add `model` with `versions` versions, the first `runs` of which have a run each (else all).

    Each run has five metrics, five parameters and two tags, each version two tags. The database
    has MLflow's tables already. Alias champion points at the last but one.
    """
    run_ids = [uuid4().hex for _ in range(versions if runs is None else runs)]
    with sqlite3.connect(path, timeout=30) as database:
        database.execute(
            "INSERT INTO registered_models (name, creation_time, last_updated_time)"
            " VALUES (?, ?, ?)",
            (model, START_MS, START_MS + versions),
        )
        database.executemany(
            "INSERT INTO runs (run_uuid, name, source_type, source_name, user_id, status,"
            " start_time, end_time, lifecycle_stage, artifact_uri, experiment_id)"
            " VALUES (?, ?, 'LOCAL', 'train.py', 'ann', 'FINISHED', ?, ?, 'active', '', 0)",
            [(run, f"run-{i}", START_MS + i, START_MS + i) for i, run in enumerate(run_ids)],
        )
        database.executemany(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
            " VALUES (?, ?, ?, 0, 0, ?)",
            [(m, i / versions, START_MS, run) for i, run in enumerate(run_ids) for m in METRICS],
        )
        database.executemany(
            "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
            [(p, str(i), run) for i, run in enumerate(run_ids) for p in PARAMS],
        )
        database.executemany(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, 'x', ?)",
            [(tag, run) for run in run_ids for tag in ("mlflow.user", "team")],
        )
        database.executemany(
            "INSERT INTO model_versions (name, version, creation_time, last_updated_time, user_id,"
            " current_stage, source, run_id, status) VALUES (?, ?, ?, ?, 'ann', 'None', ?, ?,"
            " 'READY')",
            [
                (
                    *(model, i + 1, START_MS + i, START_MS + i, f"models:/m-{i}"),
                    run_ids[i] if i < len(run_ids) else None,
                )
                for i in range(versions)
            ],
        )
        database.executemany(
            "INSERT INTO model_version_tags (key, value, name, version) VALUES (?, 'v', ?, ?)",
            [(tag, model, i + 1) for i in range(versions) for tag in ("data", "team")],
        )
        database.execute(
            "INSERT INTO registered_model_aliases (alias, version, name) VALUES ('champion', ?, ?)",
            (versions - 1, model),
        )
    database.close()
