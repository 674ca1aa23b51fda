"""What every Store keeps to: the twin in memory, SQLite, and PostgreSQL where there is one."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text

from services.domain import (
    Action,
    AuditEntry,
    LoadSummary,
    Objective,
    Outcome,
    Percentiles,
    Tick,
    Verdict,
)
from services.errors import ConfigError, Denied, NotFound, Unreachable
from services.ports import Run, Store
from services.store import SqlStore
from tests.memory import MemoryStore

POSTGRES_URL = os.environ.get("SLIPWAY_TEST_POSTGRES_URL", "")
AT = datetime(2026, 5, 4, 12, 30, 15, 250_000, tzinfo=UTC)


def entry(nonce: str = "n-1", service: str = "wine", target: str = "local") -> AuditEntry:
    return AuditEntry(
        id=None,
        at=AT,
        actor="ana@example.com",
        action=Action.DEPLOY,
        target=target,
        namespace="",
        service=service,
        before="wine/2",
        after="wine/3",
        reason="better recall",
        nonce=nonce,
        origin="terminal",
    )


def percentiles(value: float | None) -> Percentiles:
    return Percentiles(value, value, value, None, None, value, value)


def run(name: str = "evening", service: str = "wine") -> Run:
    tick = Tick(1.0, 99, {"timeout": 1}, 100.0, percentiles(0.01), percentiles(0.008), {3: 99})
    return Run(
        id=None,
        name=name,
        actor="ana",
        created_at="2026-05-04T12:30:15+00:00",
        target="local",
        namespace="",
        service=service,
        release=3,
        version="wine/3",
        settings='{"rate": 100}',
        summary=LoadSummary(
            requests=100,
            ok=99,
            errors={"timeout": 1},
            duration_s=1.0,
            rate=99.0,
            target_rate=100.0,
            response=percentiles(0.01),
            service=percentiles(0.008),
            lateness_p99_s=0.001,
            client_limited=False,
            verdict="The load engine was not the limit.",
            by_release={3: 99},
            histogram=((0.005, 40), (0.01, 59)),
        ),
        ticks=(tick, replace(tick, at_s=2.0, final=True)),
    )


def postgres_url(schema: str) -> str:
    separator = "&" if "?" in POSTGRES_URL else "?"
    return f"{POSTGRES_URL}{separator}options=-csearch_path%3D{schema}"


@pytest.fixture
def postgres() -> Iterator[str]:
    """URL of an empty schema of the PostgreSQL that the environment names."""
    if not POSTGRES_URL:
        pytest.skip("SLIPWAY_TEST_POSTGRES_URL names no PostgreSQL to test with")
    schema = f"slipway_{uuid.uuid4().hex[:12]}"
    admin = create_engine(POSTGRES_URL, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield postgres_url(schema)
    with admin.connect() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    admin.dispose()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    url = f"sqlite:///{tmp_path}/slipway.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres")
    store = SqlStore(url)
    yield store
    store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "slipway.db"


@pytest.fixture
def sqlite_store(path: Path) -> Iterator[SqlStore]:
    store = SqlStore(f"sqlite:///{path}")
    yield store
    store.close()


# ── The contract ──────────────────────────────────────────────────────────────────────────────


def test_an_intent_is_open_until_its_outcome_is_written(store: Store) -> None:
    number = store.intend(entry())

    [kept] = store.entries()

    assert kept == replace(entry(), id=number, outcome=Outcome.OPEN)


def test_an_outcome_joins_its_intent(store: Store) -> None:
    number = store.intend(entry())

    store.outcome(number, Outcome.VERIFIED, "answered in 12 ms", release=4)

    [kept] = store.entries()
    assert (kept.outcome, kept.detail, kept.release) == (Outcome.VERIFIED, "answered in 12 ms", 4)
    assert kept.settled_at is not None
    assert kept.at == AT


def test_the_same_nonce_is_one_operation(store: Store) -> None:
    first = store.intend(entry("n-1"))

    again = store.intend(entry("n-1"))

    assert again == first
    assert len(store.entries()) == 1


def test_the_first_outcome_stands(store: Store) -> None:
    number = store.intend(entry())
    store.outcome(number, Outcome.FAILED, "out of memory", release=4)

    store.outcome(number, Outcome.VERIFIED, "somebody else's view", release=4)

    [kept] = store.entries()
    assert (kept.outcome, kept.detail) == (Outcome.FAILED, "out of memory")


def test_a_time_out_may_become_a_late_success(store: Store) -> None:
    number = store.intend(entry())
    store.outcome(number, Outcome.TIMEOUT, release=4)

    store.outcome(number, Outcome.VERIFIED, "late", release=4)

    assert store.entries()[0].outcome is Outcome.VERIFIED


def test_a_failure_may_become_a_late_success(store: Store) -> None:
    number = store.intend(entry())
    store.outcome(number, Outcome.FAILED, "no room", release=4)

    store.outcome(number, Outcome.VERIFIED, release=4, late=True)

    assert store.entries()[0].outcome is Outcome.VERIFIED


def test_entries_come_newest_first_and_bounded(store: Store) -> None:
    for nonce in ("n-1", "n-2", "n-3"):
        store.intend(entry(nonce))

    assert [kept.nonce for kept in store.entries(limit=2)] == ["n-3", "n-2"]


def test_entries_can_be_asked_for_by_service_and_target(store: Store) -> None:
    store.intend(entry("n-1", service="wine", target="local"))
    store.intend(entry("n-2", service="text", target="local"))
    store.intend(entry("n-3", service="wine", target="prod"))

    assert [kept.nonce for kept in store.entries(service="wine", target="prod")] == ["n-3"]


def test_an_operation_is_found_by_its_nonce(store: Store) -> None:
    store.intend(entry("n-1"))

    found = store.open_entry("n-1")

    assert found is not None
    assert found.service == "wine"


def test_an_unknown_operation_is_none(store: Store) -> None:
    assert store.open_entry("n-9") is None


def test_a_run_comes_back_as_it_was_saved(store: Store) -> None:
    number = store.save_run(run())

    assert store.runs().found == (replace(run(), id=number),)


def test_an_example_is_kept_by_model_and_name_and_replaced_under_its_name(store: Store) -> None:
    store.save_example("wine", "pale", '{"inputs": [1]}')
    store.save_example("wine", "pale", '{"inputs": [2]}')
    store.save_example("churn", "pale", '{"inputs": [3]}')
    assert dict(store.examples("wine")) == {"pale": '{"inputs": [2]}'}


def test_an_objective_is_kept_for_its_service_alone(store: Store) -> None:
    store.keep_objective("mini", "models", "wine", Objective(p99_s=0.25, error_ratio=0.01))

    others = [("mini", "models", "churn"), ("mini", "", "wine"), ("prod", "models", "wine")]
    assert store.objective("mini", "models", "wine") == Objective(0.25, 0.01)
    assert [store.objective(*other) for other in others] == [Objective()] * 3


def test_a_newer_objective_takes_the_place_of_the_older(store: Store) -> None:
    store.keep_objective("local", "", "wine", Objective(p99_s=0.25, error_ratio=0.01))
    store.keep_objective("local", "", "wine", Objective(error_ratio=0.0))

    assert store.objective("local", "", "wine") == Objective(p99_s=None, error_ratio=0.0)


def test_a_promise_can_be_taken_back(store: Store) -> None:
    store.keep_objective("local", "", "wine", Objective(p99_s=0.1))
    store.keep_objective("local", "", "wine", Objective())

    assert store.objective("local", "", "wine") == Objective()


def test_runs_come_newest_first_by_service(store: Store) -> None:
    store.save_run(run("first"))
    store.save_run(run("other", service="text"))
    store.save_run(run("second"))

    assert [kept.name for kept in store.runs(service="wine").found] == ["second", "first"]


@pytest.mark.parametrize(
    "reason",
    [
        "'; DROP TABLE slipway_audit; --",
        "line\nbreak",
        "{{ x }} ${{ y }} %s",
        "عربي \u202e",
        "x" * 10_000,
    ],
)
def test_hostile_text_is_kept_as_text(store: Store, reason: str) -> None:
    store.intend(replace(entry(), reason=reason))

    assert store.entries()[0].reason == reason


def test_a_working_store_passes_its_check(store: Store) -> None:
    assert {finding.verdict for finding in store.check()} == {Verdict.PASS}


# ── SQL only ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["sqlite", "postgresql"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path}/slipway.db"


@pytest.fixture
def sql_store(sql_url: str) -> Iterator[SqlStore]:
    store = SqlStore(sql_url)
    yield store
    store.close()


def _edit(url: str, statement: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _filled(store: SqlStore) -> SqlStore:
    for nonce in ("n-1", "n-2", "n-3"):
        store.outcome(store.intend(entry(nonce)), Outcome.VERIFIED)
    return store


def test_an_untouched_chain_is_whole(sql_store: SqlStore) -> None:
    assert _filled(sql_store).verify_chain().verdict is Verdict.PASS


def test_the_end_of_a_chain_can_be_checked_alone(sql_store: SqlStore) -> None:
    finding = _filled(sql_store).verify_chain(last=2)

    assert finding.detail == "The newest 2 rows are as they were written."


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE slipway_audit SET actor = 'eve' WHERE id = 3", "Row 3 was changed"),
        ("UPDATE slipway_audit SET outcome = 'failed' WHERE id = 6", "Row 6 was changed"),
        ("DELETE FROM slipway_audit WHERE id = 2", "Row 2 is missing"),
        ("DELETE FROM slipway_audit WHERE id = 6", "The chain ends at row 5"),
        ("DELETE FROM slipway_audit", "The chain ends at row 0"),
        ("UPDATE slipway_audit SET previous_hash = hash WHERE id = 1", "Row 1 does not follow"),
    ],
)
def test_an_edit_of_the_audit_log_is_found(
    sql_store: SqlStore, sql_url: str, statement: str, found: str
) -> None:
    _filled(sql_store)

    _edit(sql_url, statement)

    finding = sql_store.verify_chain()
    assert finding.verdict is Verdict.FAIL
    assert finding.detail.startswith(found)


def test_the_outcome_of_an_unknown_entry_is_not_found(sql_store: SqlStore) -> None:
    with pytest.raises(NotFound):
        sql_store.outcome(17, Outcome.VERIFIED)


def test_a_newer_schema_is_refused(sql_store: SqlStore, sql_url: str) -> None:
    sql_store.intend(entry())
    sql_store.close()
    _edit(sql_url, "UPDATE slipway_schema SET version = 99")

    with pytest.raises(ConfigError, match="Its schema is 99"):
        sql_store.entries()


def test_nul_and_lone_surrogates_do_not_stop_the_audit(sql_store: SqlStore) -> None:
    sql_store.intend(replace(entry(), reason="a\x00b\ud800c"))

    assert sql_store.entries()[0].reason == "a�b?c"


def _write_many(url: str, name: str) -> None:
    store = SqlStore(url)
    for number in range(25):
        store.outcome(store.intend(entry(f"{name}-{number}")), Outcome.VERIFIED)
    store.close()


def test_processes_share_one_store_and_one_chain(sql_store: SqlStore, sql_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_many, args=(sql_url, name)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)

    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(sql_store.entries(limit=1_000)) == 75
    assert sql_store.verify_chain().detail == "All 150 rows are as they were written."


def test_a_store_of_an_earlier_slipway_is_brought_forward_with_what_it_holds(
    sql_store: SqlStore, sql_url: str
) -> None:
    sql_store.save_run(run())
    sql_store.close()
    engine = create_engine(sql_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE slipway_examples"))
        connection.execute(text("UPDATE slipway_schema SET version = 1"))
    engine.dispose()
    sql_store.save_example("wine", "pale", "{}")
    assert len(sql_store.runs().found) == 1


def test_an_earlier_slipways_store_takes_objectives_and_keeps_its_runs(
    sql_store: SqlStore, sql_url: str
) -> None:
    sql_store.save_run(run())
    sql_store.save_example("wine", "pale", "{}")
    sql_store.close()
    engine = create_engine(sql_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE slipway_objectives"))
        connection.execute(text("UPDATE slipway_schema SET version = 2"))
    engine.dispose()

    assert sql_store.objective("local", "", "wine") == Objective()
    sql_store.keep_objective("local", "", "wine", Objective(p99_s=0.1))
    assert (len(sql_store.runs().found), len(sql_store.examples("wine"))) == (1, 1)


def test_an_older_run_is_read_by_its_id_beside_the_newest(store: Store) -> None:
    numbers = [store.save_run(run(name)) for name in ("first", "second", "third")]

    found = store.runs(service="wine", limit=1, ids=numbers[:1]).found
    assert [kept.name for kept in found] == ["third", "first"]


def test_runs_of_one_target_can_be_asked_for(store: Store) -> None:
    store.save_run(replace(run("here"), target="local"))
    store.save_run(replace(run("there"), target="prod"))

    assert [kept.name for kept in store.runs(target="prod").found] == ["there"]


def test_the_newest_runs_of_a_namespace_are_found_behind_those_of_others(store: Store) -> None:
    for name in ("first", "second", "third"):
        store.save_run(replace(run(name), namespace="rare"))
    for _ in range(5):
        store.save_run(replace(run("other"), namespace="common"))

    found = store.runs(namespace="rare", limit=2).found
    assert [kept.name for kept in found] == ["third", "second"]


def test_runs_are_read_by_their_ids_alone(store: Store) -> None:
    numbers = [store.save_run(run(name)) for name in ("first", "second", "third")]

    found = store.runs(limit=0, ids=numbers[:2]).found
    assert [kept.name for kept in found] == ["second", "first"]


def test_a_run_of_another_service_is_not_read_by_its_id(store: Store) -> None:
    number = store.save_run(run(service="text"))

    assert not store.runs(service="wine", ids=[number]).found


@pytest.mark.parametrize(
    "damage",
    [
        {"settings": "{broken"},
        {"settings": "[]"},
        {"created_at": "yesterday"},
        {"settings": '{"objective": {"p99_s": "soon"}}'},
        {"settings": '{"cold_start_s": "long"}'},
    ],
    ids=str,
)
def test_a_run_whose_values_were_damaged_is_told_by_its_id(
    sql_store: SqlStore, damage: dict[str, str]
) -> None:
    good = sql_store.save_run(run())
    bad = sql_store.save_run(replace(run(), **damage))  # type: ignore[arg-type]

    kept = sql_store.runs()
    assert ([one.id for one in kept.found], kept.damaged) == ([good], (bad,))


def test_a_run_that_was_damaged_takes_no_place_among_the_newest(sql_store: SqlStore) -> None:
    good = sql_store.save_run(run())
    bad = sql_store.save_run(replace(run(), settings="{broken"))

    kept = sql_store.runs(limit=1)
    assert ([one.id for one in kept.found], kept.damaged) == ([good], (bad,))


def test_a_run_that_was_damaged_hides_no_other(sql_store: SqlStore, sql_url: str) -> None:
    bad, good = sql_store.save_run(run("first")), sql_store.save_run(run("second"))
    column = "decode('00', 'hex')" if sql_url.startswith("postgres") else "x'00'"
    _edit(sql_url, f"UPDATE slipway_runs SET record = {column} WHERE id = {bad}")

    kept = sql_store.runs()
    assert ([one.id for one in kept.found], kept.damaged) == ([good], (bad,))


# ── Faults ────────────────────────────────────────────────────────────────────────────────────


def test_the_folder_is_private(sqlite_store: SqlStore, path: Path) -> None:
    sqlite_store.intend(entry())

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_making_a_store_opens_nothing(sqlite_store: SqlStore, path: Path) -> None:
    assert not path.parent.exists()


def test_a_read_only_database_takes_no_intent(sqlite_store: SqlStore, path: Path) -> None:
    sqlite_store.intend(entry())
    read_only = SqlStore(f"sqlite:///file:{path}?mode=ro&uri=true")

    with pytest.raises(Denied, match="Nothing was written"):
        read_only.intend(entry("n-2"))


def test_a_read_only_database_can_still_be_read(sqlite_store: SqlStore, path: Path) -> None:
    sqlite_store.intend(entry())

    assert len(SqlStore(f"sqlite:///file:{path}?mode=ro&uri=true").entries()) == 1


def test_a_full_disk_takes_no_intent(sqlite_store: SqlStore, path: Path) -> None:
    sqlite_store.intend(entry())
    sqlite_store.close()

    def no_more_pages(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    engine = sqlite_store._engine()
    engine.dispose()
    event.listen(engine, "connect", no_more_pages)

    with pytest.raises(Unreachable, match="Free some space"):
        sqlite_store.intend(replace(entry("n-2"), reason="x" * 1_000_000))
    assert [kept.nonce for kept in sqlite_store.entries()] == ["n-1"]


def test_a_locked_database_is_told(
    sqlite_store: SqlStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.store.BUSY_TIMEOUT_S", 0)
    sqlite_store.intend(entry())
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    with pytest.raises(Unreachable, match="Another program holds the database"):
        sqlite_store.intend(entry("n-2"))
    holder.close()


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "slipway.db").write_bytes(b"not a database" * 500)

    with pytest.raises(Unreachable, match="Move the file away"):
        SqlStore(f"sqlite:///{tmp_path}/slipway.db").entries()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(Unreachable, match="Could not record"):
        SqlStore(f"sqlite:///{tmp_path}/file/slipway.db").intend(entry())


def test_a_store_that_is_down_fails_its_check_without_raising() -> None:
    store = SqlStore("postgresql://ana:s3cret@127.0.0.1:1/slipway")

    [finding] = store.check()

    assert finding.verdict is Verdict.FAIL


def test_the_password_of_a_store_is_never_told() -> None:
    store = SqlStore("postgresql://ana:s3cret@127.0.0.1:1/slipway")

    with pytest.raises(Unreachable) as raised:
        store.intend(entry())

    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("url", ["", "sqlite://", "mysql://host/db", "what is this", "oracle://x"])
def test_a_url_that_names_no_usable_store_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"Set `store\.url`"):
        SqlStore(url)


def test_an_edited_audit_log_fails_the_health_check(sqlite_store: SqlStore, path: Path) -> None:
    _filled(sqlite_store)
    _edit(f"sqlite:///{path}", "UPDATE slipway_audit SET reason = '' WHERE id = 1")

    assert [finding.verdict for finding in sqlite_store.check()] == [Verdict.PASS, Verdict.FAIL]
