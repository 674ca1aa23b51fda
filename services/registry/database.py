"""The way to a registry in a database: MLflow's tables, read by plain SQL.

Reading through MLflow's client costs its import (5 s), a schema migration nobody asked for, and per
10,000 versions 7 s of entities; the same rows by SQL take a fraction of a second. Only reading goes
this way. Writing goes through MLflow's client, which validates. The tables and columns used here
have been the same since MLflow 2.3 and are checked by the contract tests on the locked version
(read against 3.17.2, dbmodels/models.py of store/model_registry and of store/tracking).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError

from services.domain import Finding, ModelVersion, RegisteredModel, Verdict, VersionRef
from services.errors import ConfigError, Denied, Unreachable, one_line
from services.registry.bounded import Deadline, within
from services.registry.facts import (
    PROMPT_TAG,
    RunFacts,
    no_such_model,
    no_such_version,
    utc,
    version_from,
)

T = TypeVar("T")

_LATE_FACTOR = 5
_CHUNK = 500
"""Ids per IN list; every database takes that many parameters."""
_WORKSPACE = "default"
"""MLflow's workspace when none is chosen; older schemas have no such column."""
_DELETED_STAGE = "Deleted_Internal"  # mlflow 3.17.2, model_version_stages.py
_REFUSALS = (
    "password authentication failed",
    "no password supplied",
    "permission denied",
    "access denied",
    "readonly database",
    "is not permitted to log in",
)


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *(sa.column(column) for column in columns))


_MODELS = _table(
    "registered_models", "name", "creation_time", "last_updated_time", "description", "workspace"
)
_MODEL_TAGS = _table("registered_model_tags", "name", "key", "value", "workspace")
_ALIASES = _table("registered_model_aliases", "name", "alias", "version", "workspace")
_VERSIONS = _table(
    "model_versions",
    *("name", "version", "creation_time", "last_updated_time", "description", "user_id"),
    *("current_stage", "source", "run_id", "status", "status_message", "storage_location"),
    "workspace",
)
_VERSION_TAGS = _table("model_version_tags", "name", "version", "key", "value", "workspace")
_RUNS = _table("runs", "run_uuid", "experiment_id", "lifecycle_stage", "artifact_uri")
_METRICS = _table("latest_metrics", "run_uuid", "key", "value", "is_nan")
_PARAMS = _table("params", "run_uuid", "key", "value")
_EXPERIMENTS = _table("experiments", "experiment_id", "artifact_location", "lifecycle_stage")


class Database:
    """MLflow's tables at a SQLAlchemy URL. Implements Wire."""

    def __init__(self, uri: str, timeout_s: float) -> None:
        url = _usable(uri)
        self._url = url
        self._timeout_s = timeout_s
        self._workspaces: bool | None = None
        self.where = url.render_as_string(hide_password=True)
        self._is_sqlite = url.get_backend_name() == "sqlite"
        self._path = Path(url.database) if self._is_sqlite and url.database else None
        try:
            self._engine = sa.create_engine(
                url, pool_pre_ping=True, connect_args=_connect_args(url, timeout_s)
            )
        except (ImportError, SQLAlchemyError) as error:
            raise ConfigError(
                f"The registry's database {self.where} cannot be used.",
                why=one_line(error),
                fix="Install its driver beside Slipway, or go through a tracking server.",
            ) from error

    # ── reading ───────────────────────────────────────────────────────────────────────────────

    @property
    def is_new(self) -> bool:
        """True for a SQLite file that nobody made yet: an empty registry, not a broken one."""
        return self._path is not None and not self._path.exists()

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        """`work` on a connection, bounded; the one door for errors of the database."""

        def connected() -> T:
            with self._translated(), self._engine.connect() as connection:
                return work(connection)

        deadline = Deadline(self._timeout_s * _LATE_FACTOR)
        return within(
            deadline.seconds,
            connected,
            lambda: Unreachable(
                f"The registry's database {self.where} is too slow.",
                why=f"It did not answer within {deadline.seconds:g} s.",
                fix="Look at the database's load and locks, then try again.",
            ),
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            said = one_line(getattr(error, "orig", None) or error)
            if any(refusal in said.lower() for refusal in _REFUSALS):
                raise Denied(
                    f"The registry's database {self.where} refused access.",
                    why=said,
                    fix="Correct user and password in MLFLOW_TRACKING_URI, or grant SELECT.",
                ) from error
            missing = isinstance(error, NoSuchTableError) or "no such table" in said
            unknown = missing or "does not exist" in said
            raise Unreachable(
                f"The registry's database {self.where} could not be read.",
                why=said,
                fix="Run `slipway demo` to fill it, or point MLFLOW_TRACKING_URI at MLflow's own."
                if unknown
                else "Start it, or correct MLFLOW_TRACKING_URI or [registry] in slipway.toml.",
            ) from error
        except (TypeError, ValueError, KeyError) as error:
            raise Unreachable(
                f"The registry's database {self.where} holds what MLflow does not write.",
                why=one_line(f"{type(error).__name__}: {error}"),
                fix="Repair the row with MLflow's own client.",
            ) from error

    def _here(self, connection: sa.Connection, table: sa.TableClause) -> sa.ColumnElement[bool]:
        """The condition for rows of the default workspace; none before MLflow had workspaces."""
        if self._workspaces is None:
            columns = {c["name"] for c in sa.inspect(connection).get_columns("model_versions")}
            self._workspaces = "workspace" in columns
        return table.c.workspace == _WORKSPACE if self._workspaces else sa.true()

    def _known(self, connection: sa.Connection, model: str) -> None:
        here = self._here(connection, _MODELS)
        row = connection.execute(sa.select(_MODELS.c.name).where(_MODELS.c.name == model, here))
        if row.first() is None or model in self._prompts(connection, model):
            raise no_such_model(model, self.where)

    def _prompts(self, connection: sa.Connection, model: str | None = None) -> set[str]:
        query = sa.select(_MODEL_TAGS.c.name).where(
            _MODEL_TAGS.c.key == PROMPT_TAG,
            _MODEL_TAGS.c.value == "true",
            self._here(connection, _MODEL_TAGS),
        )
        if model is not None:
            query = query.where(_MODEL_TAGS.c.name == model)
        return {row.name for row in connection.execute(query)}

    # ── registered models ─────────────────────────────────────────────────────────────────────

    def models(self) -> Sequence[RegisteredModel]:
        """Every registered model: five queries, however many there are."""
        return () if self.is_new else self._read(self._models)

    def _models(self, connection: sa.Connection) -> Sequence[RegisteredModel]:
        tags: dict[str, dict[str, str]] = {}
        aliases: dict[str, dict[str, int]] = {}
        counts: dict[str, tuple[int, int]] = {}
        m = _MODELS.c
        models = connection.execute(
            sa.select(m.name, m.creation_time, m.last_updated_time, m.description).where(
                self._here(connection, _MODELS)
            )
        ).all()
        t = _MODEL_TAGS.c
        for row in connection.execute(
            sa.select(t.name, t.key, t.value).where(self._here(connection, _MODEL_TAGS))
        ):
            tags.setdefault(row.name, {})[row.key] = row.value or ""
        a = _ALIASES.c
        for row in connection.execute(
            sa.select(a.name, a.alias, a.version).where(self._here(connection, _ALIASES))
        ):
            aliases.setdefault(row.name, {})[row.alias] = int(row.version)
        v = _VERSIONS.c
        for row in connection.execute(
            sa.select(v.name, sa.func.count().label("n"), sa.func.max(v.version).label("top"))
            .where(v.current_stage != _DELETED_STAGE, self._here(connection, _VERSIONS))
            .group_by(v.name)
        ):
            counts[row.name] = (int(row.n), int(row.top))
        return sorted(
            (
                RegisteredModel(
                    name=row.name,
                    description=row.description or "",
                    tags=tags.get(row.name, {}),
                    aliases=aliases.get(row.name, {}),
                    latest_number=counts[row.name][1] if row.name in counts else None,
                    version_count=counts[row.name][0] if row.name in counts else 0,
                    created_at=utc(row.creation_time),
                    updated_at=utc(row.last_updated_time),
                )
                for row in models
                if tags.get(row.name, {}).get(PROMPT_TAG) != "true"
            ),
            key=lambda model: model.name,
        )

    def aliases(self, model: str) -> Mapping[str, int]:
        """Alias → number."""
        if self.is_new:
            raise no_such_model(model, self.where)

        def work(connection: sa.Connection) -> Mapping[str, int]:
            self._known(connection, model)
            a = _ALIASES.c
            rows = connection.execute(
                sa.select(a.alias, a.version).where(
                    a.name == model, self._here(connection, _ALIASES)
                )
            )
            return {row.alias: int(row.version) for row in rows}

        return self._read(work)

    def set_alias(self, model: str, alias: str, number: int) -> None:
        """Point an alias at a version, by MLflow's own client."""
        self.version(VersionRef(model, number))
        from mlflow import MlflowClient  # 5 s, and only who writes pays them
        from mlflow.exceptions import MlflowException

        uri = self._url.render_as_string(hide_password=False)

        def work() -> None:
            with self._translated():
                try:
                    client = MlflowClient(uri, registry_uri=uri)
                    client.set_registered_model_alias(model, alias, str(number))
                except MlflowException as error:
                    raise Unreachable(
                        f"The alias {alias} of {one_line(model, 80)} could not be set.",
                        why=one_line(error.message),
                        fix="Look at the registry's database, then try again.",
                    ) from error

        # Opening MLflow's store looks the whole schema over: seconds the first time.
        within(
            30.0,
            work,
            lambda: Unreachable(
                f"The registry's database {self.where} is too slow.",
                why="It did not take the alias within 30 s; it may still do so.",
                fix=f"Look with `slipway models`, then try again: setting {alias} twice is safe.",
            ),
        )

    # ── versions and runs ─────────────────────────────────────────────────────────────────────

    def versions(self, model: str, limit: int | None = None) -> Sequence[ModelVersion]:
        """Versions, highest number first: two queries."""
        if self.is_new:
            return ()

        def work(connection: sa.Connection) -> Sequence[ModelVersion]:
            return self._versions(connection, _VERSIONS.c.name == model, limit)

        return self._read(work)

    def version(self, ref: VersionRef) -> ModelVersion:
        """One version."""
        if self.is_new:
            raise no_such_version(ref, self.where)
        v = _VERSIONS.c

        def work(connection: sa.Connection) -> Sequence[ModelVersion]:
            return self._versions(
                connection, sa.and_(v.name == ref.model, v.version == ref.number), None
            )

        found = self._read(work)
        if not found:
            raise no_such_version(ref, self.where)
        return found[0]

    def _versions(
        self, connection: sa.Connection, which: sa.ColumnElement[bool], limit: int | None
    ) -> Sequence[ModelVersion]:
        v, t = _VERSIONS.c, _VERSION_TAGS.c
        chosen = (
            sa.select(
                v.name,
                v.version,
                v.creation_time.label("creation_timestamp"),
                v.last_updated_time.label("last_updated_timestamp"),
                *(v.description, v.user_id, v.source, v.run_id, v.status, v.status_message),
            )
            .where(which, v.current_stage != _DELETED_STAGE, self._here(connection, _VERSIONS))
            .order_by(v.version.desc())
            .limit(limit)
        )
        rows = connection.execute(chosen).mappings().all()
        if not rows:
            return ()
        model, lowest, highest = rows[0]["name"], rows[-1]["version"], rows[0]["version"]
        tags: dict[int, dict[str, str]] = {}
        for number, key, value in connection.execute(
            sa.select(t.version, t.key, t.value).where(
                t.name == model,
                t.version.between(lowest, highest),
                self._here(connection, _VERSION_TAGS),
            )
        ).all():
            tags.setdefault(number, {})[key] = value or ""
        return [version_from(dict(row), tags.get(row["version"], {})) for row in rows]

    def runs(self, run_ids: Collection[str]) -> Mapping[str, RunFacts]:
        """Runs with their latest metrics and parameters: three queries per 500."""
        wanted = sorted(set(run_ids))
        return {} if not wanted or self.is_new else self._read(lambda c: _runs(c, wanted))

    def run_url(self, run_id: str, run: RunFacts) -> str | None:
        """None: a database has no pages."""
        del run_id, run
        return None

    # ── places ────────────────────────────────────────────────────────────────────────────────

    def storage_uri(self, ref: VersionRef) -> str:
        """Where MLflow resolved the source to when the version was registered."""
        if self.is_new:
            raise no_such_version(ref, self.where)
        v = _VERSIONS.c

        def work(connection: sa.Connection) -> str:
            row = connection.execute(
                sa.select(v.storage_location, v.source).where(
                    v.name == ref.model, v.version == ref.number, self._here(connection, _VERSIONS)
                )
            ).first()
            if row is None:
                raise no_such_version(ref, self.where)
            return row.storage_location or row.source or ""

        return self._read(work)

    def artifact_roots(self) -> Sequence[str]:
        """Where experiments keep their artifacts.

        A SQLite file is one person's, who made its experiments: each of their places counts. On a
        shared database anybody may make an experiment anywhere, so only the default one counts.
        """
        if self.is_new:
            return ()
        e = _EXPERIMENTS.c
        query = sa.select(e.experiment_id, e.artifact_location)
        if not self._is_sqlite:
            query = query.where(e.experiment_id == 0)

        def work(connection: sa.Connection) -> Sequence[str]:
            roots = []
            for row in connection.execute(query):
                location = str(row.artifact_location or "").rstrip("/")
                if int(row.experiment_id) == 0:
                    location = location.rpartition("/")[0]
                roots.append(location)
            return tuple(root for root in roots if root)

        return self._read(work)

    # ── health ────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Sequence[Finding]:
        """Reachable, kind of store, number of models."""
        if self.is_new:
            return [
                Finding(
                    "registry",
                    Verdict.WARN,
                    f"{self.where} does not exist yet, so there are no models.",
                    "Fill it with `slipway demo`, or register models with MLflow.",
                )
            ]
        found = self.models()
        kind = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL"}.get(
            self._url.get_backend_name(), self._url.get_backend_name()
        )
        return [
            Finding(
                "registry", Verdict.PASS, f"{kind} at {self.where}: {len(found)} registered models."
            )
        ]


def _runs(connection: sa.Connection, wanted: Sequence[str]) -> Mapping[str, RunFacts]:
    metrics: dict[str, dict[str, float]] = {}
    params: dict[str, dict[str, str]] = {}
    found: dict[str, RunFacts] = {}
    m, p, r = _METRICS.c, _PARAMS.c, _RUNS.c
    # .all() throughout: fetching row by row doubles the time of 100,000 rows
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        for run_id, key, value, is_nan in connection.execute(
            sa.select(m.run_uuid, m.key, m.value, m.is_nan).where(m.run_uuid.in_(chunk))
        ).all():
            metrics.setdefault(run_id, {})[key] = math.nan if is_nan else float(value)
        for run_id, key, value in connection.execute(
            sa.select(p.run_uuid, p.key, p.value).where(p.run_uuid.in_(chunk))
        ).all():
            params.setdefault(run_id, {})[key] = value
        for run_id, experiment, stage, artifacts in connection.execute(
            sa.select(r.run_uuid, r.experiment_id, r.lifecycle_stage, r.artifact_uri).where(
                r.run_uuid.in_(chunk)
            )
        ):
            found[run_id] = RunFacts(
                experiment_id=str(experiment),
                deleted=stage == "deleted",
                artifact_uri=artifacts or "",
                metrics=metrics.get(run_id, {}),
                params=params.get(run_id, {}),
            )
    return found


def _usable(uri: str) -> URL:
    try:
        url = make_url(uri)
        backend = url.get_backend_name()
        url.get_dialect()
    except ModuleNotFoundError:
        pass  # the default driver is missing; another may be there
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise ConfigError(
            "The registry's address cannot be read.",
            why="It is neither http(s) nor a database that MLflow knows.",
            fix="Write http://HOST:PORT, sqlite:///FILE or postgresql://USER@HOST/NAME.",
        ) from error
    backend = url.get_backend_name()
    plain = url.drivername == backend
    # SQLAlchemy's default for PostgreSQL is psycopg2; Slipway brings psycopg 3.
    if backend == "postgresql" and plain and find_spec("psycopg2") is None:
        return url.set(drivername="postgresql+psycopg")
    return url


def _connect_args(url: URL, timeout_s: float) -> dict[str, Any]:
    backend = url.get_backend_name()
    if backend == "sqlite":
        return {"timeout": timeout_s, "check_same_thread": False}
    if backend == "postgresql":
        return {"connect_timeout": max(2, math.ceil(timeout_s))}  # libpq: whole seconds from 2 on
    return {"connect_timeout": max(1, math.ceil(timeout_s))} if backend == "mysql" else {}
