"""What every Journal keeps to: the twin in memory, and the files of target `local`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.domain import (
    Action,
    Cause,
    Intent,
    Mode,
    Outcome,
    Package,
    PackageKind,
    Plan,
    VersionRef,
)
from services.errors import Conflict
from services.local.journal import LocalJournal
from services.ports import Journal
from tests.memory import Clock, MemoryJournal

MakeJournal = Callable[[], Journal]


@pytest.fixture(params=["memory", "local"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "memory":
        return MemoryJournal(Clock())
    return LocalJournal(tmp_path)


def plan_for(nonce: str, service: str = "wine", number: int = 1, **fields: object) -> Plan:
    intent = Intent(
        service,
        VersionRef(service, number),
        Package(PackageKind.FOLDER, f"/packages/{number}", "ab" * 32),
        Mode.LOCAL,
    )
    plan = Plan(
        action=Action.DEPLOY,
        service=service,
        target="local",
        namespace="",
        before=None,
        after=intent,
        based_on=None,
        changes=(),
        nonce=nonce,
    )
    return replace(plan, **fields)  # type: ignore[arg-type]  # fields by name


def settled(journal: Journal, nonce: str, outcome: Outcome = Outcome.VERIFIED) -> None:
    journal.close(journal.begin(plan_for(nonce), "ana", ""), outcome)


def test_an_unknown_service_has_an_empty_history(journal: Journal) -> None:
    assert list(journal.history("nobody")) == []


def test_a_begun_release_is_open_and_carries_who_and_why(journal: Journal) -> None:
    release = journal.begin(plan_for("a"), "ana", "better recall")
    assert (release.number, release.outcome, release.actor, release.reason) == (
        1,
        Outcome.OPEN,
        "ana",
        "better recall",
    )
    assert list(journal.history("wine")) == [release]


def test_history_is_newest_first(journal: Journal) -> None:
    for nonce in ("a", "b", "c"):
        settled(journal, nonce)
    assert [release.number for release in journal.history("wine")] == [3, 2, 1]


def test_the_same_nonce_ten_times_is_one_release(journal: Journal) -> None:
    releases = {journal.begin(plan_for("a"), "ana", "").number for _ in range(10)}
    assert releases == {1}
    assert len(journal.history("wine")) == 1


def test_the_same_nonce_after_the_end_gives_the_settled_release(journal: Journal) -> None:
    settled(journal, "a")
    assert journal.begin(plan_for("a"), "ana", "").outcome is Outcome.VERIFIED


def test_an_open_release_refuses_another_operation_and_names_its_holder(journal: Journal) -> None:
    journal.begin(plan_for("a"), "ana", "")
    with pytest.raises(Conflict) as refused:
        journal.begin(plan_for("b", number=2), "bob", "")
    assert "ana" in refused.value.why
    assert "wine/1" in refused.value.why


def test_an_open_release_holds_its_own_service_only(journal: Journal) -> None:
    journal.begin(plan_for("a"), "ana", "")
    assert journal.begin(plan_for("b", service="beer"), "bob", "").number == 1


def test_closing_lets_go_of_the_service(journal: Journal) -> None:
    settled(journal, "a", Outcome.FAILED)
    assert journal.begin(plan_for("b"), "bob", "").number == 2


def test_a_failure_keeps_its_cause(journal: Journal) -> None:
    cause = Cause("The package is gone.", why="why", fix="fix", evidence=("line",))
    journal.close(journal.begin(plan_for("a"), "ana", ""), Outcome.FAILED, cause)
    assert journal.history("wine")[0].cause == cause


def test_the_first_outcome_stands(journal: Journal) -> None:
    release = journal.begin(plan_for("a"), "ana", "")
    first = journal.close(release, Outcome.FAILED, Cause("first"))
    assert journal.close(release, Outcome.VERIFIED) == first
    assert journal.history("wine")[0] == first


def test_a_timeout_may_succeed_late(journal: Journal) -> None:
    release = journal.begin(plan_for("a"), "ana", "")
    journal.close(release, Outcome.TIMEOUT)
    late = journal.close(release, Outcome.VERIFIED, late=True)
    assert (late.outcome, late.late) == (Outcome.VERIFIED, True)


def test_a_failure_may_succeed_late_or_fail_anew(journal: Journal) -> None:
    release = journal.begin(plan_for("a"), "ana", "")
    journal.close(release, Outcome.FAILED, Cause("no room"))
    anew = journal.close(release, Outcome.FAILED, Cause("its test failed"), late=True)
    assert (anew.cause, anew.late) == (Cause("its test failed"), False)
    late = journal.close(release, Outcome.VERIFIED, late=True)
    assert (late.outcome, late.late, late.cause) == (Outcome.VERIFIED, True, None)


def test_a_timeout_does_not_fail_late(journal: Journal) -> None:
    release = journal.begin(plan_for("a"), "ana", "")
    journal.close(release, Outcome.TIMEOUT)
    assert journal.close(release, Outcome.FAILED, late=True).outcome is Outcome.TIMEOUT


def test_a_release_that_starts_a_process_names_itself_as_workload(journal: Journal) -> None:
    settled(journal, "a")
    assert journal.begin(plan_for("b"), "ana", "").workload == 2


def test_a_release_that_only_moves_traffic_keeps_the_earlier_workload(journal: Journal) -> None:
    settled(journal, "a")
    settled(journal, "b")
    assert journal.begin(plan_for("c", workload=1), "ana", "").workload == 1


def test_a_delete_records_what_was_deleted(journal: Journal) -> None:
    before = plan_for("a").after
    plan = plan_for("a", action=Action.DELETE, before=before, after=None)
    assert journal.begin(plan, "ana", "").intent == before


def test_of_many_that_begin_at_once_one_wins(journal: Journal) -> None:
    won: list[int] = []
    refused: list[Conflict] = []
    gate = threading.Barrier(4)

    def begin(nonce: str) -> None:
        gate.wait()
        try:
            won.append(journal.begin(plan_for(nonce), nonce, "").number)
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=begin, args=(f"n{at}",)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [1]
    assert len(refused) == 3
