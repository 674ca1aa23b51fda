"""The journeys on target `local`, with real MLServer processes and real small models."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services import planning
from services.domain import Outcome, Phase, Plan, StepState, TestResult, Verdict
from services.errors import Conflict, SlipwayError
from services.local.process import free_ports, is_free
from services.local.serving import LocalServing
from services.local.state import ServiceFolder, exclusive
from tests.machine import BROKEN, MISFIT, SLOW, Machine, Stream, eventually

pytestmark = [pytest.mark.local, pytest.mark.timeout(420)]


@pytest.fixture
def machine(tmp_path: Path, saved_models: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "state", saved_models)
    yield made
    made.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, saved_models: Path) -> Iterator[Machine]:
    """A machine with the service `wine`, which serves some version, whatever tests did before."""
    made = Machine(tmp_path_factory.mktemp("shared") / "state", saved_models)
    yield made
    made.end()


@pytest.fixture
def serving(shared: Machine) -> Machine:
    """`wine` serves version 1, alone."""
    current = shared.serving.service("wine")
    if current is None or current.phase is not Phase.READY or shared.ask()[0] != 1.0:
        assert shared.deploy(1).outcome is Outcome.VERIFIED
    eventually(lambda: len(shared.model_servers()) == 1, 60)
    return shared


def test_a_steady_stream_loses_no_request_through_deploy_failed_deploy_and_rollback(
    serving: Machine,
) -> None:
    with Stream(serving.port(), rate=40) as stream:
        assert serving.deploy(2).outcome is Outcome.VERIFIED
        assert serving.deploy(BROKEN).outcome is Outcome.FAILED
        history = serving.journal.history("wine")
        back = planning.plan_rollback(serving.service(), history, to=1)
        assert serving.carry_out(back).outcome is Outcome.VERIFIED
        eventually(lambda: len(serving.model_servers()) == 1, 60)
        time.sleep(1.0)
    assert stream.failures == []
    order = [a for a, b in zip(stream.answers, [*stream.answers[1:], 0.0], strict=True) if a != b]
    assert set(order) == {1.0, 2.0}
    assert (order[0], order[-1]) == (1.0, 1.0)


def test_a_failed_deploy_names_its_cause_and_leaves_the_old_one(serving: Machine) -> None:
    release = serving.deploy(BROKEN)
    assert release.outcome is Outcome.FAILED
    assert release.cause is not None
    assert release.cause.evidence
    service = serving.service()
    assert service.phase is Phase.FAILED
    assert [str(side.version) for side in service.answering] == ["wine/1"]
    assert serving.ask()[0] == 1.0
    assert service.drift == ()  # what a failed release left serving is no edit of others


def test_a_canary_gets_its_share_and_moves_without_a_new_process(serving: Machine) -> None:
    stable = serving.service().answering[0].release
    assert serving.deploy(2, canary_percent=30).outcome is Outcome.VERIFIED
    before = {number: process.pid for number, process in serving.model_servers().items()}
    answers = Counter(serving.ask()[0] for _ in range(200))
    assert answers == {1.0: 140, 2.0: 60}
    canary = serving.service()
    asked = serving.ask(x_slipway_release=str(canary.release))
    assert asked == (2.0, str(canary.release))

    history = serving.journal.history("wine")
    assert serving.carry_out(planning.plan_canary(canary, history, 60)).outcome is Outcome.VERIFIED
    assert Counter(serving.ask()[0] for _ in range(100)) == {1.0: 40, 2.0: 60}
    assert {n: p.pid for n, p in serving.model_servers().items()} == before

    history = serving.journal.history("wine")
    aborted = serving.carry_out(planning.plan_abort(serving.service(), history))
    assert (aborted.outcome, aborted.workload) == (Outcome.VERIFIED, stable)
    assert Counter(serving.ask()[0] for _ in range(20)) == {1.0: 20}
    eventually(lambda: len(serving.model_servers()) == 1, 60)


def test_a_promoted_canary_takes_all_of_the_traffic_in_the_same_process(serving: Machine) -> None:
    canary = serving.deploy(2, canary_percent=10)
    pid = serving.model_servers()[canary.number].pid
    history = serving.journal.history("wine")
    promoted = serving.carry_out(planning.plan_promote(serving.service(), history))
    assert (promoted.outcome, promoted.workload) == (Outcome.VERIFIED, canary.number)
    eventually(lambda: len(serving.model_servers()) == 1, 60)
    assert serving.model_servers()[canary.number].pid == pid
    assert Counter(serving.ask()[0] for _ in range(20)) == {2.0: 20}


def test_a_killed_model_server_is_noticed_within_5_s_and_started_again(serving: Machine) -> None:
    (process,) = serving.model_servers().values()
    process.send_signal(signal.SIGKILL)
    eventually(lambda: serving.service().phase is Phase.FAILED, 5)
    seen = serving.serving.observe("wine")
    assert seen.failure is not None
    assert "SIGKILL" in str(seen.failure)
    assert seen.answering == ()
    with pytest.raises(RuntimeError, match="503"):
        serving.ask()
    start = planning.plan_start(serving.service(), serving.journal.history("wine"))
    assert serving.carry_out(start).outcome is Outcome.VERIFIED
    assert serving.ask()[0] == 1.0


def test_a_killed_supervisor_takes_its_model_server_along_and_start_brings_both_back(
    serving: Machine,
) -> None:
    (process,) = serving.model_servers().values()
    port = serving.port()
    serving.supervisor().send_signal(signal.SIGKILL)
    eventually(lambda: not process.is_running() or _is_zombie(process), 10)
    service = serving.service()
    assert service.phase is Phase.STOPPED
    assert "not running since" in service.message
    start = planning.plan_start(service, serving.journal.history("wine"))
    assert serving.carry_out(start).outcome is Outcome.VERIFIED
    assert serving.port() == port
    assert serving.ask()[0] == 1.0


def test_a_supervisor_killed_in_mid_deploy_leaves_a_failure_and_no_lock(machine: Machine) -> None:
    release = machine.apply(machine.deploy_plan(1))
    eventually(lambda: bool(_started(machine)), 30)
    (process,) = machine.model_servers().values()
    machine.supervisor().send_signal(signal.SIGKILL)
    eventually(lambda: not process.is_running() or _is_zombie(process), 10)
    seen = machine.serving.observe("wine")
    assert seen.failure is not None
    assert "not running" in seen.failure.what
    again = machine.apply(planning.plan_stop(machine.service()))
    assert again.number == release.number + 1
    assert machine.outcome(release).outcome is Outcome.FAILED
    assert machine.outcome(again).outcome is Outcome.STOPPED


def test_a_supervisor_killed_in_mid_delete_leaves_no_service(machine: Machine) -> None:
    machine.deploy(1)
    folder = ServiceFolder(machine.root, "wine")
    # So that it does nothing about the delete, and holds no lock that the delete needs.
    with exclusive(folder.releases / "lock", "wine"), folder.locked():
        machine.supervisor().suspend()
    machine.apply(planning.plan_delete(machine.service()))
    machine.supervisor().kill()
    eventually(lambda: machine.serving.service("wine") is None, 10)
    assert not machine.serving.observe("wine").exists
    assert machine.deploy(2).outcome is Outcome.VERIFIED


def test_after_a_restart_a_version_that_fails_makes_way_for_the_one_that_answered(
    serving: Machine,
) -> None:
    assert serving.deploy(BROKEN).outcome is Outcome.FAILED
    for process in serving.processes():
        process.send_signal(signal.SIGKILL)
    eventually(lambda: not serving.processes(), 10)
    assert serving.service().phase is Phase.FAILED
    # Deployed again by hand, although it failed before: what answered last comes up in its place.
    assert serving.deploy(BROKEN).outcome is Outcome.FAILED
    assert serving.ask()[0] == 1.0


def test_stop_start_and_delete_leave_no_process_and_no_port(machine: Machine) -> None:
    machine.deploy(1)
    port = machine.port()
    ports = [port, *_listening(machine)]
    stopped = machine.carry_out(planning.plan_stop(machine.service()))
    assert stopped.outcome is Outcome.STOPPED
    assert machine.service().phase is Phase.STOPPED
    eventually(lambda: not machine.processes(), 10)
    assert all(is_free(number) for number in ports)

    start = planning.plan_start(machine.service(), machine.journal.history("wine"))
    assert machine.carry_out(start).outcome is Outcome.VERIFIED
    assert (machine.port(), machine.ask()[0]) == (port, 1.0)

    deleted = machine.carry_out(planning.plan_delete(machine.service()))
    assert deleted.outcome is Outcome.DELETED
    eventually(lambda: not machine.processes(), 10)
    assert machine.serving.services() == []
    assert is_free(port)
    assert [release.number for release in machine.journal.history("wine")] == [4, 3, 2, 1]


def test_a_service_is_found_at_the_port_that_was_given(machine: Machine) -> None:
    (port,) = free_ports(1)
    machine.deploy(1, port=port)
    assert machine.serving.endpoint("wine").base_url == f"http://127.0.0.1:{port}"
    assert machine.ask()[0] == 1.0
    assert machine.intent(2).port == port


def test_a_port_that_is_taken_is_found_before_and_said_after(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        plan = machine.deploy_plan(1, port=port)
        findings = {found.name: found for found in machine.serving.rehearse(plan).findings}
        assert findings["port"].verdict is Verdict.FAIL
        release = machine.carry_out(plan)
        assert release.outcome is Outcome.FAILED
        assert release.cause is not None
        assert f"Port {port}" in release.cause.what


def test_of_two_deploys_at_once_one_wins(serving: Machine) -> None:
    plans = [serving.deploy_plan(2), serving.deploy_plan(3)]
    ended: list[object] = []
    gate = threading.Barrier(2)

    def run(plan: Plan) -> None:
        gate.wait()
        try:
            ended.append(serving.apply(plan))
        except SlipwayError as error:
            ended.append(error)

    threads = [threading.Thread(target=run, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [end for end in ended if isinstance(end, Conflict)]
    assert len(refused) == 1
    newest = serving.journal.history("wine")[0]
    assert serving.outcome(newest).outcome is Outcome.VERIFIED


def test_a_version_without_an_example_serves_but_is_not_verified(serving: Machine) -> None:
    release = serving.deploy(2, example=None)
    assert release.outcome is Outcome.SERVING
    seen = serving.serving.observe("wine")
    assert seen.test is TestResult.COULD_NOT_MEASURE
    assert {s.name: s.state for s in seen.steps}["verified"] is StepState.SKIPPED
    assert not serving.service().verified


def test_a_version_that_cannot_answer_its_example_fails_beside_the_old_one(
    serving: Machine,
) -> None:
    release = serving.deploy(2, example=MISFIT)
    assert release.outcome is Outcome.FAILED
    assert release.cause is not None
    assert "test inference" in release.cause.what
    assert serving.ask()[0] == 1.0


def test_a_load_without_end_ends_at_the_deadline(machine: Machine) -> None:
    release = machine.deploy(SLOW, timeout_s=4)
    assert release.outcome is Outcome.FAILED
    assert release.cause is not None
    assert "4 s" in release.cause.what
    eventually(lambda: not machine.model_servers(), 60)


def test_two_dashboards_see_the_same(serving: Machine) -> None:
    other = LocalServing(serving.root, "local")
    assert other.services() == serving.serving.services()


def test_log_and_time_line_tell_what_happened(serving: Machine) -> None:
    lines = list(serving.serving.logs("wine", tail=5_000))
    assert any("Loaded model" in line.text for line in lines)
    times = [line.time for line in lines if line.time]
    assert times == sorted(times)
    events = [line.text for line in serving.serving.events("wine")]
    assert any(text.startswith("Traffic: wine/1") for text in events)


def test_a_followed_log_gives_new_lines(serving: Machine) -> None:
    lines = serving.serving.logs("wine", container="supervisor", tail=1, follow=True)
    next(lines)
    with ServiceFolder(serving.root, "wine").supervisor_log.open("a") as log:
        log.write("2026-01-01T00:00:00.000+00:00 a new line\n")
    assert next(lines).text == "a new line"


def test_the_model_server_gets_no_secret_of_ours(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    machine.apply(machine.deploy_plan(1, env=(("GREETING", "hello"),)))
    eventually(lambda: bool(_started(machine)), 30)
    (process,) = machine.model_servers().values()
    passed = process.environ()
    assert "MLFLOW_TRACKING_PASSWORD" not in passed
    assert passed["GREETING"] == "hello"


def test_files_are_the_owners_alone(serving: Machine) -> None:
    folder = ServiceFolder(serving.root, "wine").path
    modes = {path: path.stat().st_mode & 0o077 for path in (folder, *folder.rglob("*"))}
    assert {path for path, mode in modes.items() if mode} == set()


def test_a_running_service_costs_no_cpu_while_nobody_asks(serving: Machine) -> None:
    supervisor = serving.supervisor()
    before = supervisor.cpu_times()
    time.sleep(4)
    after = supervisor.cpu_times()
    used_s = after.user + after.system - before.user - before.system
    assert used_s / 4 < 0.03


def _started(machine: Machine) -> dict[int, psutil.Process]:
    seen = ServiceFolder(machine.root, "wine").seen()
    return machine.model_servers() if seen else {}


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _listening(machine: Machine) -> list[int]:
    return [
        connection.laddr.port
        for process in machine.model_servers().values()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
