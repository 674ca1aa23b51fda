"""The audit log and the stored load tests, in SQL: SQLite on one machine, PostgreSQL for a team.

Responsible for: the row of intent that must stand before any write, its outcome, a chain of hashes
that shows when a row was edited, load-test runs, and what each service's users were promised. Not
for release history: that lives beside the services (`ports.Journal`). Called through `ports.Store`;
made by `connect`.

The audit table is append-only: an intent and its outcome are two rows. Each row carries the sha256
of its own columns and of the row before it, and a table of one row remembers the end of the chain.
Whoever edits, removes or reorders rows without redoing the whole chain is found by
:meth:`SqlStore.verify_chain`. Somebody who may write the database *and* rewrites all of it is not:
that takes a database that such people cannot write to.

Read against SQLAlchemy 2.0, SQLite 3.40 and PostgreSQL 15.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    and_,
    create_engine,
    delete,
    event,
    func,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from services import records
from services.domain import (
    Action,
    AuditEntry,
    Finding,
    Objective,
    Outcome,
    Verdict,
    may_follow,
)
from services.errors import ConfigError, Denied, NotFound, SlipwayError, Unreachable, one_line
from services.ports import Run, StoredRuns

log = logging.getLogger("slipway.store")

SCHEMA_VERSION = 3
"""Raised with every change of a table. A store written by a newer Slipway is refused, not guessed
at."""

BUSY_TIMEOUT_S = 5
"""How long a writer waits for another. Transactions here take milliseconds."""

CHECKED_ROWS = 5_000
"""How much of the chain's end `check` verifies: some tens of milliseconds."""

_RUN_BYTES_LIMIT = 64 * 1024 * 1024
_START = "0" * 64
# Any number that no other user of the team's database takes: guards the making of the tables.
_SCHEMA_LOCK = 0x511B_AA1

_metadata = MetaData()

_schema = Table("slipway_schema", _metadata, Column("version", Integer, primary_key=True))

_audit = Table(
    "slipway_audit",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(8), nullable=False),  # intent, outcome
    Column("intent_id", Integer),  # of the outcome's intent
    Column("at", String(40), nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(16), nullable=False),
    Column("target", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("release", Integer),
    Column("outcome", String(16), nullable=False),
    Column("detail", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("slipway_audit_by_nonce", "nonce"),
    Index("slipway_audit_by_intent", "intent_id"),
    Index("slipway_audit_by_service", "service", "id"),
)

_chain = Table(
    "slipway_chain",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("last_row", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
)

_runs = Table(
    "slipway_runs",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("created_at", String(40), nullable=False),
    Column("name", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("record", LargeBinary, nullable=False),  # the whole Run: JSON, deflated
    Index("slipway_runs_by_service", "service", "id"),
)

_examples = Table(
    "slipway_examples",
    _metadata,
    Column("model", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),  # an /invocations body: JSON, deflated
)

_objectives = Table(
    "slipway_objectives",
    _metadata,
    Column("target", Text, primary_key=True),
    Column("namespace", Text, primary_key=True),
    Column("service", Text, primary_key=True),
    Column("p99_s", Float(53)),  # null: nothing is promised
    Column("error_ratio", Float(53)),
)


def _now() -> datetime:
    return datetime.now(UTC)


class SqlStore:
    """Audit log and load-test runs behind a SQLAlchemy URL. Thread-safe; many processes may share.

    Nothing is opened before the first call, so making one cannot fail but for a URL that is none
    (ConfigError). Every method but `check` and `verify_chain` raises Unreachable (gone, locked,
    full, damaged), Denied (read-only, wrong credentials) or ConfigError (written by a newer
    Slipway), and then has written nothing.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] = _now) -> None:
        self._url = _usable_url(url)
        self._shown = self._url.render_as_string(hide_password=True)
        self._clock = clock
        self._opening = threading.Lock()
        self._opened: Engine | None = None
        self._damaged_told: set[int] = set()

    # ── Audit ─────────────────────────────────────────────────────────────────────────────────

    def intend(self, entry: AuditEntry) -> int:
        """Write the intent row and give its id. The same nonce again gives the same id."""
        with self._writing("record what is about to be done") as connection:
            if entry.nonce:
                known = connection.execute(
                    select(_audit.c.id).where(
                        _audit.c.kind == "intent", _audit.c.nonce == entry.nonce
                    )
                ).scalar()
                if known is not None:
                    return int(known)
            return _append(connection, _intent_row(entry))

    def outcome(
        self,
        audit_id: int,
        outcome: Outcome,
        detail: str = "",
        release: int | None = None,
        *,
        late: bool = False,
    ) -> None:
        """Write the outcome: the first stands, but for a late one. NotFound.

        `late`: a failure came up after all (`may_follow`); a TIMEOUT may without saying so.
        Outcome OPEN records the release's number before the outcome is known.
        """
        with self._writing("record the outcome") as connection:
            intent = connection.execute(
                select(_audit).where(_audit.c.id == audit_id, _audit.c.kind == "intent")
            ).one_or_none()
            if intent is None:
                raise NotFound(f"The audit log has no entry {audit_id}.")
            last = connection.execute(
                select(_audit.c.outcome, _audit.c.release)
                .where(_audit.c.intent_id == audit_id)
                .order_by(_audit.c.id.desc())
                .limit(1)
            ).one_or_none()
            stands = Outcome(last.outcome) if last else Outcome.OPEN
            known = last.release if last else intent.release
            if release is None:
                release = known
            news = outcome is not stands or release != known
            late = late or stands is Outcome.TIMEOUT
            if not news or not may_follow(stands, outcome, late=late):
                return
            row = {name: value for name, value in intent._mapping.items() if name in _COPIED}  # noqa: SLF001 — SQLAlchemy's public accessor of a row
            row |= {
                "kind": "outcome",
                "intent_id": audit_id,
                "at": _time_text(self._clock()),
                "release": release,
                "outcome": outcome.value,
                "detail": _text(detail),
            }
            _append(connection, row)

    def entries(
        self, *, service: str | None = None, target: str | None = None, limit: int = 200
    ) -> Sequence[AuditEntry]:
        """Audit entries, newest first, at most `limit`."""
        wanted = select(_audit).where(_audit.c.kind == "intent")
        if service is not None:
            wanted = wanted.where(_audit.c.service == service)
        if target is not None:
            wanted = wanted.where(_audit.c.target == target)
        with self._reading("read the audit log") as connection:
            return _entries(connection, wanted.order_by(_audit.c.id.desc()).limit(limit))

    def open_entry(self, nonce: str) -> AuditEntry | None:
        """The entry of one operation, whatever its outcome, or None."""
        wanted = select(_audit).where(_audit.c.kind == "intent", _audit.c.nonce == nonce).limit(1)
        with self._reading("read the audit log") as connection:
            return next(iter(_entries(connection, wanted)), None)

    def verify_chain(self, last: int | None = None) -> Finding:
        """Whether every audit row is as it was written, or the `last` ones. Never raises."""
        try:
            with self._reading("read the audit log") as connection:
                return _chain_finding(connection, last)
        except SlipwayError as error:
            return Finding("audit chain", Verdict.SKIP, error.what, error.fix)

    # ── Load tests ────────────────────────────────────────────────────────────────────────────

    def save_run(self, run: Run) -> int:
        """Keep a load test; gives its id."""
        row = {
            "created_at": run.created_at,
            "name": _text(run.name),
            "actor": _text(run.actor),
            "target": run.target,
            "service": run.service,
            "version": run.version,
            "record": zlib.compress(records.dump(run).encode()),
        }
        with self._writing("keep the load test") as connection:
            return int(
                connection.execute(insert(_runs).values(row).returning(_runs.c.id)).scalar_one()
            )

    def runs(
        self,
        *,
        service: str | None = None,
        target: str | None = None,
        namespace: str | None = None,
        limit: int = 100,
        ids: Collection[int] = (),
    ) -> StoredRuns:
        """The newest `limit` stored load tests and those with these ids, newest first.

        Of one service, target, namespace; None of all. One that was damaged hides no other: it is
        told by its id, and why in the log.
        """
        wanted = select(_runs.c.id, _runs.c.record).order_by(_runs.c.id.desc())
        if service is not None:
            wanted = wanted.where(_runs.c.service == service)
        if target is not None:
            wanted = wanted.where(_runs.c.target == target)
        found: dict[int, Run] = {}
        damaged: set[int] = set()
        with self._reading("read the load tests") as connection:
            named = wanted.where(_runs.c.id.in_(set(ids)))
            for rows, most in ((wanted, limit), (named, limit + len(set(ids)))):
                # The namespace, and whether it is whole, stands in the record alone: read on until
                # there are enough.
                for row in connection.execution_options(yield_per=50).execute(rows):
                    if len(found) >= most:
                        break
                    run = self._sound(int(row.id), row.record, damaged)
                    if run is not None and namespace in {None, run.namespace}:
                        found[int(row.id)] = run
        return StoredRuns(
            tuple(found[number] for number in sorted(found, reverse=True)),
            tuple(sorted(damaged, reverse=True)),
        )

    def _sound(self, number: int, record: bytes, damaged: set[int]) -> Run | None:
        """A stored load test; None, and its id among the damaged ones, where it is none."""
        try:
            return _run(number, record)
        except _Damaged as error:
            damaged.add(number)
            if number not in self._damaged_told:
                self._damaged_told.add(number)
                log.warning("load test %d cannot be read: %s", number, one_line(error))
            return None

    # ── Objectives ────────────────────────────────────────────────────────────────────────────

    def objective(self, target: str, namespace: str, service: str) -> Objective:
        """What the service's users were promised; an empty Objective when nothing was."""
        mine = _objectives_of(target, namespace, service)
        with self._reading("read the objective") as connection:
            row = connection.execute(
                select(_objectives.c.p99_s, _objectives.c.error_ratio).where(mine)
            ).one_or_none()
        return Objective() if row is None else Objective(row.p99_s, row.error_ratio)

    def keep_objective(
        self, target: str, namespace: str, service: str, objective: Objective
    ) -> None:
        """Keep what is promised from now on; an empty Objective takes the promise back."""
        with self._writing("keep the objective") as connection:
            connection.execute(
                delete(_objectives).where(_objectives_of(target, namespace, service))
            )
            if objective != Objective():
                connection.execute(
                    insert(_objectives).values(
                        target=_text(target),
                        namespace=_text(namespace),
                        service=_text(service),
                        p99_s=objective.p99_s,
                        error_ratio=objective.error_ratio,
                    )
                )

    # ── Examples ──────────────────────────────────────────────────────────────────────────────

    def save_example(self, model: str, name: str, body: str) -> None:
        """Keep a request's rows under a name for a registered model; the same name is replaced."""
        key = {"model": _text(model), "name": _text(name)}
        mine = (_examples.c.model == key["model"]) & (_examples.c.name == key["name"])
        with self._writing("keep the example") as connection:
            connection.execute(delete(_examples).where(mine))
            connection.execute(
                insert(_examples).values(**key, body=zlib.compress(_text(body).encode()))
            )

    def examples(self, model: str) -> Mapping[str, str]:
        """The kept examples of a registered model: name → JSON text of an /invocations body."""
        wanted = select(_examples.c.name, _examples.c.body).order_by(_examples.c.name)
        with self._reading("read the examples") as connection:
            rows = connection.execute(wanted.where(_examples.c.model == _text(model))).all()
        return {str(row.name): zlib.decompress(row.body).decode() for row in rows}

    # ── Health ────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Sequence[Finding]:
        """Whether the store can be written, and whether its newest rows are unedited."""
        try:
            with self._writing("try the audit log") as connection:
                count = connection.execute(select(func.count()).select_from(_audit)).scalar_one()
        except SlipwayError as error:
            detail = " ".join(part for part in (error.what, error.why) if part)
            return [Finding("audit log", Verdict.FAIL, detail, error.fix)]
        written = Finding(
            "audit log", Verdict.PASS, f"{self._shown} can be written; it holds {count} rows."
        )
        return [written, self.verify_chain(last=CHECKED_ROWS)]

    def close(self) -> None:
        """Let go of every connection. The store can be used again afterwards."""
        with self._opening:
            if self._opened is not None:
                self._opened.dispose()
            self._opened = None

    # ── Connections ───────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _reading(self, doing: str) -> Iterator[Connection]:
        with self._errors(doing, writes=False), self._engine().connect() as connection:
            yield connection

    @contextmanager
    def _writing(self, doing: str) -> Iterator[Connection]:
        """One short transaction that no other writer interleaves; a raise inside undoes it."""
        with self._errors(doing, writes=True), self._engine().connect() as bare:
            connection = bare.execution_options(slipway_writes=True)
            with connection.begin():
                # On SQLite the transaction is exclusive from its first statement (BEGIN IMMEDIATE);
                # elsewhere the row at the chain's end is what writers queue for.
                connection.execute(select(_chain.c.id).with_for_update()).all()
                yield connection

    def _engine(self) -> Engine:
        with self._opening:
            if self._opened is None:
                engine = self._new_engine()
                with ExitStack() as undo:
                    undo.callback(engine.dispose)
                    _prepare_tables(engine, self._shown)
                    undo.pop_all()
                self._opened = engine
            return self._opened

    def _new_engine(self) -> Engine:
        if self._url.get_backend_name() != "sqlite":
            own = str(self._url.query.get("options", ""))
            bounds = f"-c lock_timeout={BUSY_TIMEOUT_S}s -c statement_timeout=30s"
            return create_engine(
                self._url,
                pool_pre_ping=True,  # a connection that a restart of the server left dead
                pool_size=4,
                connect_args={
                    "connect_timeout": BUSY_TIMEOUT_S,
                    "options": f"{own} {bounds}".strip(),
                },
            )
        database = self._url.database or ""
        if not database.startswith("file:"):
            _private_folder(Path(database).parent)
        engine = create_engine(self._url, connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    @contextmanager
    def _errors(self, doing: str, *, writes: bool) -> Iterator[None]:
        """The one door: what SQLAlchemy, the drivers and the file system raise, in our words."""
        try:
            yield
        except DBAPIError as error:
            raise _translated(doing, self._shown, error, writes=writes) from error
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise Unreachable(
                f"Could not {doing}: the store at {self._shown} failed. Nothing was written.",
                why=one_line(error),
                fix="Check `store.url` in slipway.toml.",
            ) from error


# What an outcome row repeats of its intent, so that each row can be read alone.
_COPIED = frozenset(
    ("actor", "action", "target", "namespace", "service", "before", "after", "reason", "nonce")
) | {"origin"}

_HASHED = tuple(
    column.name for column in _audit.columns if column.name not in ("previous_hash", "hash")
)


def _intent_row(entry: AuditEntry) -> dict[str, Any]:
    return {
        "kind": "intent",
        "intent_id": None,
        "at": _time_text(entry.at),
        "actor": _text(entry.actor),
        "action": entry.action.value,
        "target": entry.target,
        "namespace": entry.namespace,
        "service": entry.service,
        "before": _text(entry.before),
        "after": _text(entry.after),
        "reason": _text(entry.reason),
        "nonce": entry.nonce,
        "release": entry.release,
        "outcome": entry.outcome.value,
        "detail": _text(entry.detail),
        "origin": _text(entry.origin),
    }


def _append(connection: Connection, row: Mapping[str, Any]) -> int:
    """Add a row at the chain's end; the caller holds the write transaction."""
    end = connection.execute(select(_chain.c.last_row, _chain.c.hash)).one()
    number = int(end.last_row) + 1
    whole = {**row, "id": number, "previous_hash": end.hash}
    digest = _hash(whole)
    connection.execute(insert(_audit).values({**whole, "hash": digest}))
    connection.execute(update(_chain).values(last_row=number, hash=digest))
    return number


def _hash(row: Mapping[str, Any]) -> str:
    content = json.dumps([row[name] for name in _HASHED], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{row['previous_hash']}\n{content}".encode()).hexdigest()


def _chain_finding(connection: Connection, last: int | None) -> Finding:
    end = connection.execute(select(_chain.c.last_row, _chain.c.hash)).one()
    first = 1 if last is None else max(1, int(end.last_row) - last + 1)
    expected_id, expected_hash = first, _START if first == 1 else None
    rows = connection.execution_options(yield_per=1_000).execute(
        select(_audit).where(_audit.c.id >= first).order_by(_audit.c.id)
    )
    for found in rows.mappings():
        row = {str(name): value for name, value in found.items()}
        if row["id"] != expected_id:
            return _broken(f"Row {expected_id} is missing.")
        if expected_hash is not None and row["previous_hash"] != expected_hash:
            return _broken(f"Row {row['id']} does not follow the row before it.")
        if row["hash"] != _hash(row):
            return _broken(f"Row {row['id']} was changed after it was written.")
        expected_id, expected_hash = row["id"] + 1, row["hash"]
    if expected_id != end.last_row + 1 or (end.last_row and expected_hash != end.hash):
        return _broken(f"The chain ends at row {expected_id - 1}; {end.last_row} were written.")
    seen = expected_id - first
    part = f"The newest {seen} rows are" if first > 1 else f"All {seen} rows are"
    return Finding("audit chain", Verdict.PASS, f"{part} as they were written.")


def _broken(what: str) -> Finding:
    return Finding(
        "audit chain",
        Verdict.FAIL,
        f"{what} Somebody or something edited the audit log outside Slipway.",
        "Compare the database with a backup, and restrict who may write to it.",
    )


def _entries(connection: Connection, wanted: Any) -> list[AuditEntry]:  # noqa: ANN401 — a Select of the audit table; its generic type says nothing more
    intents = connection.execute(wanted).all()
    ids = [row.id for row in intents]
    outcomes = (
        connection.execute(
            select(_audit).where(_audit.c.intent_id.in_(ids)).order_by(_audit.c.id)
        ).all()
        if ids
        else []
    )
    last_by_intent = {row.intent_id: row for row in outcomes}
    return [_entry(row, last_by_intent.get(row.id)) for row in intents]


def _entry(intent: Any, last: Any | None) -> AuditEntry:  # noqa: ANN401 — SQLAlchemy rows
    shown = last if last is not None else intent
    outcome = Outcome(shown.outcome)
    settled = last is not None and outcome is not Outcome.OPEN
    return AuditEntry(
        id=int(intent.id),
        at=datetime.fromisoformat(intent.at),
        actor=intent.actor,
        action=Action(intent.action),
        target=intent.target,
        namespace=intent.namespace,
        service=intent.service,
        before=intent.before,
        after=intent.after,
        reason=intent.reason,
        nonce=intent.nonce,
        release=shown.release,
        outcome=outcome,
        detail=shown.detail,
        settled_at=datetime.fromisoformat(shown.at) if settled else None,
        origin=intent.origin,
    )


class _Damaged(Exception):
    """A stored load test is not what was stored."""


def _run(number: int, record: bytes) -> Run:
    inflate = zlib.decompressobj()
    try:
        body = inflate.decompress(record, _RUN_BYTES_LIMIT)
    except zlib.error as error:
        raise _Damaged(str(error)) from error
    if inflate.unconsumed_tail:
        raise _Damaged(f"It is larger than {_RUN_BYTES_LIMIT} bytes.")
    if not inflate.eof:
        raise _Damaged("It was cut short.")
    try:
        run = records.load(Run, body)
        datetime.fromisoformat(run.created_at)
        settings = json.loads(run.settings)
        if not isinstance(settings, dict):
            raise _Damaged("Its settings are none.")
        if settings.get("objective"):
            records.load(Objective, json.dumps(settings["objective"]))
    except (ConfigError, ValueError) as error:
        raise _Damaged(str(error)) from error
    if not isinstance(settings.get("cold_start_s", 0.0), float | int | None):
        raise _Damaged("Its cold start is no time.")
    return Run(
        id=number,
        name=run.name,
        actor=run.actor,
        created_at=run.created_at,
        target=run.target,
        namespace=run.namespace,
        service=run.service,
        release=run.release,
        version=run.version,
        settings=run.settings,
        summary=run.summary,
        ticks=run.ticks,
    )


def _objectives_of(target: str, namespace: str, service: str) -> ColumnElement[bool]:
    return and_(
        _objectives.c.target == _text(target),
        _objectives.c.namespace == _text(namespace),
        _objectives.c.service == _text(service),
    )


def _text(value: str) -> str:
    # PostgreSQL stores no NUL, and lone surrogates cannot be encoded: both would turn a hostile
    # tag into a write that cannot be audited.
    return value.replace("\x00", "�").encode("utf-8", "replace").decode()


def _time_text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


# ── Opening ───────────────────────────────────────────────────────────────────────────────────


def _usable_url(text_url: str) -> URL:
    wrong = ConfigError(
        "The store's URL cannot be used.",
        why="It has to name a SQLite file or a PostgreSQL database.",
        fix="Set `store.url` to sqlite:///path/to/slipway.db or postgresql+psycopg://user@host/db.",
    )
    try:
        url = make_url(text_url)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise wrong from error
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or not url.database or url.database == ":memory:":
        raise wrong
    return url


def _private_folder(folder: Path) -> None:
    # 0700: the log names people and their reasons.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transaction handling begins too late for BEGIN IMMEDIATE:
    # SQLAlchemy 2.0, dialects/sqlite/pysqlite.py, "Serializable isolation / Savepoints".
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
    # A file that is being switched to WAL by another process answers "locked" at once, whatever
    # the busy timeout: then it is that process that switches it, and WAL stays with the file.
    try:
        if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            cursor.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error) and "readonly" not in str(error):
            raise
    # FULL: an intent that was reported as written must outlive a power cut.
    cursor.execute("PRAGMA synchronous = FULL")
    # Bounds the -wal file after a checkpoint; the promise is that it does not grow for ever.
    cursor.execute(f"PRAGMA journal_size_limit = {16 * 1024 * 1024}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("slipway_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_tables(engine: Engine, shown: str) -> None:
    """Make the tables, or check that we know them. Safe when two processes come at once."""
    with engine.connect() as connection:
        if _version(connection) == SCHEMA_VERSION:
            return
    with engine.connect() as bare:
        connection = bare.execution_options(slipway_writes=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK}
                )
            version = _version(connection)
            if version is None:
                _metadata.create_all(connection)
                connection.execute(insert(_schema).values(version=SCHEMA_VERSION))
                connection.execute(insert(_chain).values(id=1, last_row=0, hash=_START))
            elif version < SCHEMA_VERSION:
                # So far every newer schema only has more tables.
                _metadata.create_all(connection)
                connection.execute(update(_schema).values(version=SCHEMA_VERSION))
            elif version > SCHEMA_VERSION:
                raise ConfigError(
                    f"The store at {shown} was written by another Slipway. Nothing was written.",
                    why=f"Its schema is {version}; this Slipway knows {SCHEMA_VERSION}.",
                    fix="Update Slipway, or set `store.url` to another database.",
                )


def _version(connection: Connection) -> int | None:
    if not connection.dialect.has_table(connection, _schema.name):
        return None
    version = connection.execute(select(func.max(_schema.c.version))).scalar()
    return None if version is None else int(version)


# ── Errors ────────────────────────────────────────────────────────────────────────────────────

# PostgreSQL 15, appendix A: insufficient privilege, invalid password, invalid authorisation,
# read-only transaction.
_DENIED_STATES = frozenset(("42501", "28P01", "28000", "25006"))
# psycopg reports a refused login without a SQLSTATE: only the server's own words tell.
_DENIED_WORDS = ("readonly database", "password authentication failed", "no pg_hba.conf entry")

_FIX_BY_WORD = {
    "disk is full": "Free some space, then try again.",
    "locked": "Another program holds the database: end it, or use PostgreSQL for a team.",
    "unable to open": "Make the folder writable for this user, or set `store.url`.",
    "not a database": "Move the file away, or set `store.url` to another one.",
    "malformed": "Restore the database from a backup, or move it away.",
}


def _translated(doing: str, shown: str, error: DBAPIError, *, writes: bool) -> SlipwayError:
    words = one_line(error.orig)
    unwritten = " Nothing was written." if writes else ""
    did = "did not take it" if writes else "did not give it"
    state = getattr(error.orig, "sqlstate", None) or ""
    denied = state in _DENIED_STATES or any(word in words for word in _DENIED_WORDS)
    if denied:
        return Denied(
            f"Could not {doing}: the store at {shown} did not allow it.{unwritten}",
            why=words,
            fix="Give this user the right to write it, or set `store.url` in slipway.toml.",
        )
    fix = next(
        (fix for word, fix in _FIX_BY_WORD.items() if word in words),
        "Start the database, or set `store.url` in slipway.toml.",
    )
    return Unreachable(
        f"Could not {doing}: the store at {shown} {did}.{unwritten}",
        why=words,
        fix=fix,
    )
