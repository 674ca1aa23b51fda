"""docs/cli.md as tests: the fields of every verb's JSON, and the exit code of every error."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services import errors, preparing, rollout
from services.domain import (
    Action,
    Cause,
    ColumnSpec,
    Finding,
    LoadSummary,
    Objective,
    Observed,
    Outcome,
    Signature,
    Tick,
    ValueKind,
    Verdict,
    VersionRef,
)
from services.errors import (
    ConfigError,
    Conflict,
    Denied,
    InferenceFailed,
    NotDeployable,
    NotFound,
    NothingToRollBackTo,
    NotOffered,
    ObjectiveMissed,
    ObjectiveNotJudged,
    RolloutFailed,
    RolloutTimeout,
    SignatureMismatch,
    SlipwayError,
    Unreachable,
)
from tests.cli.conftest import Cli
from tests.memory import WINE_EXAMPLE, MemoryLoad, MemoryServing, World

OPERATION = {
    "service",
    "target",
    "namespace",
    "model",
    "version",
    "release",
    "outcome",
    "url",
    "steps",
    "took_s",
    "previous",
    "cause",
}
STATUS = {
    "name",
    "namespace",
    "target",
    "mode",
    "managed",
    "model",
    "version",
    "release",
    "phase",
    "verified",
    "traffic",
    "url",
    "message",
    "drift",
}
PERCENTILES = {"p50", "p90", "p95", "p99", "p99_9", "max", "mean"}


@pytest.fixture
def world(world: World) -> World:
    """Two versions registered, and both deployed one after the other as `wine`."""
    world.registry.add("wine", 1, aliases=("champion",))
    world.registry.add("wine", 2)
    world.registry.add("wine", 3)
    world.serves("wine", (1, 2))
    return world


def test_models(cli: Cli) -> None:
    [row] = cli("models", "--json").document["models"]

    assert {"name", "versions", "latest_version", "aliases", "serving"} <= row.keys()
    assert row["aliases"] == {"champion": 1}
    assert row["serving"] == [{"target": "local", "service": "wine", "version": 2}]


def test_models_of_a_name(cli: Cli) -> None:
    document = cli("models", "wine", "--json").document

    assert document["model"] == "wine"
    assert [row["version"] for row in document["versions"]] == [3, 2, 1]
    wanted = {"version", "aliases", "created_at", "run_id", "metrics", "params", "tags", "source"}
    assert wanted | {"serving"} <= document["versions"][0].keys()


def test_models_can_be_filtered(cli: Cli) -> None:
    assert cli("models", "--search", "beer", "--json").document == {"models": []}
    assert len(cli("models", "--alias", "champion", "--json").document["models"]) == 1
    versions = cli("models", "wine", "--alias", "champion", "--json").document["versions"]
    assert [row["version"] for row in versions] == [1]


def test_show(cli: Cli) -> None:
    document = cli("show", "wine@champion", "--json").document

    wanted = {"model", "version", "aliases", "signature", "input_example", "requirements"}
    assert wanted | {"metrics", "params", "serving"} <= document.keys()
    assert {"name", "type", "shape"} <= document["signature"]["inputs"][0].keys()
    assert document["input_example"]["dataframe_split"]["columns"] == ["alcohol", "hue"]


def test_targets(cli: Cli) -> None:
    [row] = cli("targets", "--json").document["targets"]

    assert {"name", "kind", "namespace", "mode", "reachable", "why"} <= row.keys()
    assert (row["name"], row["reachable"]) == ("local", True)


def test_a_target_that_does_not_answer_is_listed_with_why(cli: Cli, world: World) -> None:
    world.serving.broken = Unreachable("The cluster did not answer.", why="Timed out.")

    [row] = cli("targets", "--json").document["targets"]

    assert (row["reachable"], row["why"]) == (False, "The cluster did not answer. Timed out.")


def test_doctor(cli: Cli) -> None:
    ran = cli("doctor", "--json")

    assert ran.code == 0
    assert {"name", "outcome", "detail", "fix"} == ran.document["checks"][0].keys()
    assert {row["outcome"] for row in ran.document["checks"]} == {"passed"}


def test_the_doctor_looks_at_the_packages_place_too(cli: Cli, world: World) -> None:
    world.packager.found = (Finding("bucket", Verdict.FAIL, "gs://models: No.", "Create it."),)
    ran = cli("doctor", "--json")
    assert ran.code == 7
    assert ran.document["checks"][-1]["name"] == "bucket"


def test_a_failed_check_of_the_doctor_exits_with_7(cli: Cli, world: World) -> None:
    world.registry.broken = Unreachable("The registry did not answer.")

    ran = cli("doctor", "--json")

    assert ran.code == 7
    assert "failed" in {row["outcome"] for row in ran.document["checks"]}


def test_plan(cli: Cli, world: World) -> None:
    ran = cli("plan", "wine/3", "--name", "wine", "--json")

    assert ran.code == 0
    wanted = {"service", "before", "after", "diff", "manifest", "preflight", "nothing_to_do"}
    assert wanted <= ran.document.keys()
    assert {"field": "version", "before": "wine/2", "after": "wine/3"} in ran.document["diff"]
    assert world.wanted_version("wine") == VersionRef("wine", 2)


def test_deploy(cli: Cli) -> None:
    ran = cli("deploy", "wine/3", "--name", "wine", "--json")

    assert ran.code == 0
    assert ran.document.keys() >= OPERATION
    assert ran.document["outcome"] == "verified"
    assert (ran.document["version"], ran.document["release"]) == (3, 3)
    assert ran.document["previous"] == {"release": 2, "version": 2}
    assert {"name", "took_s"} <= ran.document["steps"][0].keys()


def test_a_url_that_the_target_tells_a_moment_later_is_in_the_answer(
    cli: Cli, world: World
) -> None:
    world.serving.without_url = 15

    assert cli("deploy", "wine/3", "--name", "wine", "--json").document["url"]


def test_a_service_that_never_gets_a_url_is_not_waited_for_long(world: World) -> None:
    world.serving.without_url = 1_000
    waited: list[float] = []

    found = preparing.with_url(world, "wine", sleep=waited.append)

    assert found is not None
    assert found.url is None
    assert sum(waited) == preparing.URL_WITHIN_S


def test_deploying_what_is_live_is_unchanged(cli: Cli, world: World) -> None:
    writes = len(world.serving.applied)

    ran = cli("deploy", "wine/2", "--name", "wine", "--json")

    assert (ran.code, ran.document["outcome"]) == (0, "unchanged")
    assert len(world.serving.applied) == writes


class SlowServing(MemoryServing):
    """Rolls out after so many more looks."""

    looks_left = 6

    def observe(self, name: str) -> Observed:
        self.looks_left -= 1
        if self.looks_left < 0:
            self.hold.discard(name)
        return super().observe(name)


def _left_rolling(cli: Cli, world: World, *options: str) -> int:
    """Release number of a deploy of wine/3 whose process is gone while it rolls out."""
    world.clock.at = rollout.utc_now()  # the command has no other clock
    slow = SlowServing(world)
    slow.held, slow.hold, slow.looks_left = world.serving.held, {"wine"}, 1_000
    world.serving = slow
    ran = cli("deploy", "wine/3", "--name", "wine", "--no-wait", "--json", *options)
    slow.looks_left = SlowServing.looks_left
    number: int = ran.document["release"]
    return number


def test_deploying_again_what_still_rolls_out_ends_as_that_ends(cli: Cli, world: World) -> None:
    number = _left_rolling(cli, world)

    ran = cli("deploy", "wine/3", "--name", "wine", "--json")

    assert (ran.code, ran.document["outcome"]) == (0, "verified")
    assert ran.document["release"] == number
    assert ran.document["previous"] == {"release": number - 1, "version": 2}
    assert len(world.journal.history("wine")) == number
    assert "has not ended. Nothing new was begun." in ran.err


def test_deploying_again_what_then_fails_fails(cli: Cli, world: World) -> None:
    number = _left_rolling(cli, world)
    world.serving.fails = {VersionRef("wine", 3): Cause("out of memory")}

    ran = cli("deploy", "wine/3", "--name", "wine", "--rollback-on-failure", "--json")

    assert (ran.code, ran.document["outcome"]) == (8, "failed")
    assert ran.document["release"] == number
    assert ran.document["cause"]["what"] == "out of memory"
    assert "It was begun without --rollback-on-failure" in ran.err


def test_deploying_again_what_is_undone_by_itself_tells_both_ends(cli: Cli, world: World) -> None:
    number = _left_rolling(cli, world, "--rollback-on-failure")
    world.serving.fails = {VersionRef("wine", 3): Cause("out of memory")}

    ran = cli("deploy", "wine/3", "--name", "wine", "--rollback-on-failure", "--json")

    assert (ran.code, ran.document["outcome"], ran.document["release"]) == (8, "failed", number)
    assert ran.document["undone"]["release"] == number + 1
    assert "begun without" not in ran.err


def test_deploying_again_what_does_not_settle_is_a_timeout(cli: Cli, world: World) -> None:
    _left_rolling(cli, world)

    ran = cli("deploy", "wine/3", "--name", "wine", "--timeout", "0.1", "--json")

    assert (ran.code, ran.document["outcome"]) == (9, "timeout")


def test_deploying_again_without_waiting_leaves_the_same_release_open(
    cli: Cli, world: World
) -> None:
    number = _left_rolling(cli, world)

    ran = cli("deploy", "wine/3", "--name", "wine", "--no-wait", "--json")

    assert (ran.code, ran.document["outcome"], ran.document["release"]) == (0, "open", number)


def test_a_release_that_cannot_be_verified_is_serving_with_a_warning(
    cli: Cli, world: World
) -> None:
    world.registry.add("plain", 1, example=None)

    ran = cli("deploy", "plain/1", "--name", "plain", "--yes", "--json")

    assert (ran.code, ran.document["outcome"]) == (0, "serving")
    assert "no test inference could verify it" in ran.err


def test_a_failed_roll_out_says_what_still_answers(cli: Cli, world: World) -> None:
    world.serving.fails[VersionRef("wine", 3)] = Cause("out of memory", why="killed by signal 9")

    ran = cli("deploy", "wine/3", "--name", "wine", "--json")

    assert ran.code == 8
    assert ran.document.keys() >= OPERATION
    assert ran.document["outcome"] == "failed"
    assert ran.document["cause"]["what"] == "out of memory"
    assert [row["version"] for row in ran.document["traffic"]] == [2]
    assert ran.document["error"]["kind"] == "RolloutFailed"


def test_a_failed_roll_out_says_in_which_container_and_with_which_code(
    cli: Cli, world: World
) -> None:
    """Code 0 as well: MLServer ends with it when its model does not load."""
    world.serving.fails[VersionRef("wine", 3)] = Cause(
        "it did not load", where="wine-7/kserve-container", exit_code=0, evidence=("No module",)
    )

    ran = cli("deploy", "wine/3", "--name", "wine")

    assert "  in wine-7/kserve-container, exit code 0:\n  | No module\n" in ran.err


@pytest.mark.parametrize("name", ["", " ", "Wine", "no/way"])
@pytest.mark.parametrize(
    "verb",
    [
        ("status",),
        ("history",),
        ("logs",),
        ("events",),
        ("predict",),
        ("bench", "--rate", "1", "--duration", "1"),
        ("canary", "--percent", "5"),
        ("promote",),
        ("abort",),
        ("rollback",),
        ("adopt",),
        ("stop",),
        ("start",),
        ("delete", "--confirm", "x"),
    ],
    ids=lambda words: words[0],
)
def test_a_name_that_no_service_can_have_names_none(
    cli: Cli, verb: tuple[str, ...], name: str
) -> None:
    ran = cli(verb[0], name, *verb[1:], "--json")

    assert ran.code == 5
    assert ran.document["error"]["kind"] == "NotFound"
    assert repr(name) in ran.document["error"]["what"]


@pytest.mark.parametrize("name", ["", " ", "Wine"])
@pytest.mark.parametrize(
    "verb",
    [
        ("plan", "wine/3"),
        ("deploy", "wine/3"),
        ("watch", "--model", "wine", "--alias", "champion"),
    ],
    ids=lambda words: words[0],
)
def test_a_name_that_no_service_can_have_is_refused(
    cli: Cli, verb: tuple[str, ...], name: str
) -> None:
    ran = cli(*verb, "--name", name, "--json")

    assert ran.code == 7
    assert "cannot name a service" in ran.document["error"]["what"]


def test_a_failure_that_is_undone_by_itself_is_a_failure_with_both_ends(
    cli: Cli, world: World
) -> None:
    world.serving.fails[VersionRef("wine", 3)] = Cause("out of memory", why="killed by signal 9")

    ran = cli("deploy", "wine/3", "--name", "wine", "--rollback-on-failure", "--json")

    assert (ran.code, ran.document["outcome"]) == (8, "failed")
    assert ran.document["cause"]["what"] == "out of memory"
    failed, back = ran.document["release"], ran.document["undone"]
    assert back == {"release": failed + 1, "outcome": "verified", "cause": None}
    assert [row["version"] for row in ran.document["traffic"]] == [2]
    assert "rolled back by release" in ran.document["error"]["what"]


def test_a_roll_out_that_does_not_settle_is_a_timeout(cli: Cli, world: World) -> None:
    world.serving.hold.add("wine")

    ran = cli("deploy", "wine/3", "--name", "wine", "--timeout", "0.1", "--json")

    assert (ran.code, ran.document["outcome"]) == (9, "timeout")
    assert ran.document["error"]["kind"] == "RolloutTimeout"


def test_no_wait_ends_with_the_operation_open(cli: Cli) -> None:
    ran = cli("deploy", "wine/3", "--name", "wine", "--no-wait", "--json")

    assert (ran.code, ran.document["outcome"]) == (0, "open")


def test_canary_promote_and_abort(cli: Cli) -> None:
    started = cli("deploy", "wine/3", "--name", "wine", "--canary-percent", "10", "--json")
    assert [row["percent"] for row in started.document["traffic"]] == [90, 10]

    changed = cli("canary", "wine", "--percent", "30", "--json")
    assert OPERATION | {"traffic"} <= changed.document.keys()
    assert [row["percent"] for row in changed.document["traffic"]] == [70, 30]

    promoted = cli("promote", "wine", "--json")
    assert [(row["version"], row["percent"]) for row in promoted.document["traffic"]] == [(3, 100)]


def test_an_aborted_canary_gives_everything_back(cli: Cli) -> None:
    cli("deploy", "wine/3", "--name", "wine", "--canary-percent", "10")

    ran = cli("abort", "wine", "--json")

    assert ran.code == 0
    assert [(row["version"], row["percent"]) for row in ran.document["traffic"]] == [(2, 100)]


def test_abort_takes_back_a_roll_out_that_is_under_way(cli: Cli, world: World) -> None:
    world.serving.hold.add("wine")
    cli("deploy", "wine/3", "--name", "wine", "--no-wait")
    world.serving.hold.clear()

    ran = cli("abort", "wine", "--json")

    assert (ran.code, ran.document["outcome"], ran.document["version"]) == (0, "verified", 2)
    assert cli("history", "wine", "--json").document["releases"][1]["outcome"] == "failed"


def test_rollback(cli: Cli, world: World) -> None:
    ran = cli("rollback", "wine", "--reason", "v2 is slow", "--json")

    assert ran.code == 0
    assert OPERATION | {"rolled_back_from", "rolled_back_to"} <= ran.document.keys()
    assert (ran.document["rolled_back_from"], ran.document["rolled_back_to"]) == (2, 1)
    assert ran.document["version"] == 1
    assert world.journal.history("wine")[0].reason == "v2 is slow"


def test_rollback_to_a_release(cli: Cli) -> None:
    cli("deploy", "wine/3", "--name", "wine")

    assert cli("rollback", "wine", "--to", "1", "--json").document["version"] == 1


def test_status(cli: Cli) -> None:
    [row] = cli("status", "wine", "--json").document["services"]

    assert row.keys() >= STATUS
    assert (row["phase"], row["version"], row["verified"]) == ("ready", 2, True)
    assert {"version", "percent"} <= row["traffic"][0].keys()


def test_status_takes_up_an_operation_that_was_left(cli: Cli, world: World) -> None:
    cli("deploy", "wine/3", "--name", "wine", "--no-wait")

    [row] = cli("status", "wine", "--json").document["services"]

    assert row["verified"] is True
    assert world.journal.history("wine")[0].outcome is Outcome.VERIFIED


def test_history(cli: Cli) -> None:
    rows = cli("history", "wine", "--json").document["releases"]

    wanted = {"number", "model", "version", "actor", "reason", "created_at", "outcome"}
    assert wanted | {"verified", "live"} <= rows[0].keys()
    assert [(row["number"], row["live"]) for row in rows] == [(2, True), (1, False)]
    assert rows[0]["created_at"].endswith("Z")


@pytest.mark.parametrize("verb", ["logs", "events"])
def test_logs_and_events(cli: Cli, verb: str) -> None:
    [row] = cli(verb, "wine", "--json").document["entries"]

    assert {"time", "source", "text"} <= row.keys()


@pytest.mark.parametrize(
    ("verbs", "phase"), [((("stop",),), "stopped"), ((("stop",), ("start",)), "ready")]
)
def test_stop_and_start(cli: Cli, verbs: tuple[tuple[str, ...], ...], phase: str) -> None:
    ran = [cli(*verb, "wine", "--json") for verb in verbs][-1]

    assert ran.code == 0
    [row] = ran.document["services"]
    assert row.keys() >= STATUS
    assert row["phase"] == phase


def test_delete(cli: Cli, world: World) -> None:
    ran = cli("delete", "wine", "--confirm", "wine", "--json")

    assert (ran.code, ran.document["services"]) == (0, [])
    assert world.serving.service("wine") is None
    assert world.journal.history("wine")[0].action is Action.DELETE


def test_predict(cli: Cli) -> None:
    ran = cli("predict", "wine", "--json")

    assert ran.code == 0
    wanted = {"outputs", "latency_s", "http_status", "answered_by", "protocol", "url", "via"}
    assert wanted <= ran.document.keys()
    assert {"version", "release"} <= ran.document["answered_by"].keys()


def test_an_answer_that_was_cut_is_marked_and_told(cli: Cli, world: World) -> None:
    world.predictor.cut = True

    ran = cli("predict", "wine", "--json")
    assert (ran.document["cut"], ran.document["outputs"]) == (True, [])
    assert "Warning: The answer is longer than" in ran.err
    told = cli("predict", "wine").out
    assert "too long to read" in told
    assert "ROW" not in told


@pytest.mark.parametrize("verb", [("predict",), ("bench", "--rate", "5", "--duration", "1")])
@pytest.mark.parametrize("name", ["rows.parquet", "rows"])
def test_rows_come_from_parquet_too(
    cli: Cli, world: World, tmp_path: Path, verb: tuple[str, ...], name: str
) -> None:
    split = json.loads(WINE_EXAMPLE)["dataframe_split"]
    table = pa.Table.from_pylist([dict(zip(split["columns"], split["data"][0], strict=True))])
    pq.write_table(table, tmp_path / name)

    ran = cli(verb[0], "wine", *verb[1:], "--input", str(tmp_path / name), "--json")

    assert ran.code == 0
    sent = world.engine.loads[0].requests[0] if verb[0] == "bench" else world.predictor.sent[-1]
    assert sent.rows == 1


def test_every_value_that_does_not_fit_is_told(cli: Cli, tmp_path: Path) -> None:
    columns = json.loads(WINE_EXAMPLE)["dataframe_split"]["columns"]
    rows = tmp_path / "rows.csv"
    rows.write_text(f"{','.join(columns)}\n" + f"{','.join('x' for _ in columns)}\n" * 2)

    ran = cli("predict", "wine", "--input", str(rows), "--json")

    problems = ran.document["error"]["problems"]
    assert {"column", "row", "why", "fix", "told"} <= problems[0].keys()
    assert all(f"  {problem['told']}" in ran.err for problem in problems)


def test_bench(cli: Cli) -> None:
    ran = cli("bench", "wine", "--rate", "50", "--duration", "2", "--json")

    assert ran.code == 0
    wanted = {"requests", "errors", "rate", "target_rate", "latency_s", "service_time_s"}
    assert wanted | {"verdict"} <= ran.document.keys()
    assert ran.document["latency_s"].keys() == PERCENTILES
    assert ran.document["service_time_s"].keys() == PERCENTILES


def test_a_bench_through_a_roll_out_says_when_the_version_changed(cli: Cli, world: World) -> None:
    world.engine.answered = [{"1": 50}, {"1": 20, "2": 30}, {"2": 50}]
    ran = cli("bench", "wine", "--rate", "50", "--duration", "3", "--json")

    assert ran.document["changeovers"] == [
        {
            "answered_by": "2",
            "from_s": 1.0,
            "both_until_s": 2.0,
            "beside": ["1"],
            "alone": True,
            "from_at": "2026-03-01T14:30:01.000Z",
        }
    ]
    told = cli("bench", "wine", "--rate", "50", "--duration", "3").out
    assert re.search(r"Version 2 answers from \d\d:\d\d:01; until \d\d:\d\d:02 version 1", told)


def test_requests_of_several_files_take_turns_in_a_bench(
    cli: Cli, world: World, tmp_path: Path
) -> None:
    split = json.loads(WINE_EXAMPLE)["dataframe_split"]
    bodies = [
        json.dumps({"dataframe_split": {**split, "data": [[float(at)] * len(split["columns"])]}})
        for at in range(4)
    ]
    lines, one = tmp_path / "rows.jsonl", tmp_path / "one.json"
    lines.write_text("\n".join(bodies[:3]) + "\n\n")
    one.write_text(bodies[3])

    ran = cli(
        *("bench", "wine", "--rate", "50", "--duration", "1", "--json"),
        *("--input", str(lines), "--input", str(one)),
    )

    assert ran.code == 0
    sent = [request.body for request in world.engine.loads[0].requests]
    assert len(sent) == len(set(sent)) == 4


def test_a_line_that_does_not_fit_is_named_and_nothing_is_sent(
    cli: Cli, world: World, tmp_path: Path
) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text(f'{WINE_EXAMPLE}\n{{"nothing": 1}}\n')

    ran = cli("bench", "wine", "--rate", "5", "--duration", "1", "--input", str(lines), "--json")

    assert (ran.code, ran.document["error"]["kind"]) == (10, "SignatureMismatch")
    assert "Line 2 of " in ran.document["error"]["what"]
    assert not world.engine.loads


def test_a_bench_can_be_kept(cli: Cli, world: World) -> None:
    ran = cli("bench", "wine", "--concurrency", "4", "--duration", "1", "--save", "--json")

    assert ran.document["run"] == world.store.kept[0].id
    assert world.store.kept[0].version == "wine/2"
    assert json.loads(world.store.kept[0].settings)["concurrency"] == 4


BENCH = ("bench", "wine", "--rate", "50", "--duration", "2", "--json")


@pytest.mark.parametrize(
    ("met", "options", "code"),
    [
        (False, ("--max-p99", "0.1"), 10),
        (None, ("--max-p99", "0.1"), 10),
        (True, ("--max-p99", "0.1"), 0),
        (None, (), 0),
    ],
)
def test_a_bench_is_green_only_for_an_objective_that_was_met(
    cli: Cli, world: World, met: bool | None, options: tuple[str, ...], code: int
) -> None:
    world.engine.objective_met = met

    assert cli(*BENCH, *options).code == code


def test_an_objective_that_could_not_be_judged_is_told_apart_from_one_that_was_missed(
    cli: Cli, world: World
) -> None:
    world.engine.objective_met = False
    missed = cli(*BENCH, "--max-p99", "0.1").document["error"]
    world.engine.objective_met = None
    unjudged = cli(*BENCH, "--max-p99", "0.1").document["error"]

    assert (missed["kind"], unjudged["kind"]) == ("ObjectiveMissed", "ObjectiveNotJudged")
    assert "more requests" in unjudged["fix"]


class InterruptedLoad(MemoryLoad):
    """Whoever watches it presses Ctrl-C after its first second."""

    pressed = False

    def __next__(self) -> Tick | LoadSummary:
        part = super().__next__()
        if not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)
        return part


def test_a_bench_that_was_interrupted_tells_and_keeps_what_was_measured(
    cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.engine, "run", InterruptedLoad)
    ran = cli(*BENCH, "--save", "--json")

    assert (ran.code, ran.document["error"]["kind"]) == (130, "Interrupted")
    assert ran.document["requests"] == world.store.kept[0].summary.requests > 0


class GivenUpLoad(MemoryLoad):
    """Its server died."""

    def __next__(self) -> Tick | LoadSummary:
        part = super().__next__()
        if isinstance(part, LoadSummary):
            return replace(part, stopped="no request was answered for 5 s")
        return part


def test_a_bench_that_failures_ended_is_not_green(
    cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.engine, "run", GivenUpLoad)
    ran = cli(*BENCH, "--json")

    assert ran.code == 10
    assert "no request was answered for 5 s" in ran.document["error"]["what"]


def test_a_bench_is_judged_by_the_objective_that_is_kept_for_its_service(
    cli: Cli, world: World
) -> None:
    world.store.keep_objective("local", "", "wine", Objective(p99_s=0.25, error_ratio=0.01))

    ran = cli(*BENCH)

    assert world.engine.loads[-1].objective == Objective(0.25, 0.01)
    assert ran.document["objective"] == {"p99_s": 0.25, "error_ratio": 0.01}
    assert "The objective kept for wine: p99 within 250 ms, at most 1.000%" in ran.err


def test_a_bench_can_do_without_the_kept_objective(cli: Cli, world: World) -> None:
    world.store.keep_objective("local", "", "wine", Objective(p99_s=0.25, error_ratio=0.01))

    cli(*BENCH, "--max-p99", "none", "--max-error-ratio", "none", "--save")

    assert world.engine.loads[-1].objective == Objective()


def test_a_saved_bench_keeps_the_objective_that_it_was_given(cli: Cli, world: World) -> None:
    world.store.keep_objective("local", "", "wine", Objective(p99_s=0.25, error_ratio=0.01))

    cli(*BENCH, "--max-p99", "0.1", "--save")

    assert world.store.objective("local", "", "wine") == Objective(0.1, 0.01)


@pytest.mark.parametrize("options", [("--save",), ("--max-p99", "0.1")])
def test_no_other_bench_touches_the_kept_objective(
    cli: Cli, world: World, options: tuple[str, ...]
) -> None:
    world.store.keep_objective("local", "", "wine", Objective(p99_s=0.25))

    cli(*BENCH, *options)

    assert world.store.objective("local", "", "wine") == Objective(p99_s=0.25)


def test_requests_too_few_for_a_p99_are_told_before_they_are_sent(cli: Cli) -> None:
    few = cli(*BENCH, "--max-p99", "0.1")
    enough = cli("bench", "wine", "--rate", "50", "--duration", "20", "--max-p99", "0.1", "--json")

    assert "Warning: These are 100 requests. A p99 needs 1,000" in few.err
    assert "--duration 20 sends them" in few.err
    assert "A p99 needs" not in enough.err


def test_a_bench_is_bounded_by_count_and_failures_and_warmed_up(cli: Cli, world: World) -> None:
    cli(*BENCH)
    cli(*BENCH, "--requests", "30", "--max-errors", "5", "--warm-up", "0")

    [usual, asked] = world.engine.loads
    assert (usual.warm_up_s, usual.max_errors, usual.all_failing_s) == (1.0, 1_000, 5.0)
    assert (asked.warm_up_s, asked.max_errors, asked.all_failing_s) == (0.0, 5, None)
    assert asked.max_requests == 30


@pytest.mark.parametrize(
    "options",
    [("--concurrency", "0"), ("--rate", "5", "--requests", "0"), ("--rate", "5", "--warm-up=-1")],
)
def test_a_bench_of_nothing_is_refused(cli: Cli, world: World, options: tuple[str, ...]) -> None:
    ran = cli("bench", "wine", "--duration", "1", *options, "--json")

    assert (ran.code, world.engine.loads) == (2, [])


def test_one_side_of_a_canary_can_be_loaded_and_is_named(cli: Cli, world: World) -> None:
    cli("deploy", "wine/3", "--name", "wine", "--canary-percent", "10", "--yes")

    cli(*BENCH, "--version", "3", "--save")

    newest = world.journal.history("wine")[0]
    [load], [run] = world.engine.loads, world.store.kept
    assert load.endpoint.release == newest.workload
    assert (run.name, run.version) == ("wine version 3 steady-rate", "wine/3")


def test_a_version_that_does_not_answer_is_not_loaded(cli: Cli, world: World) -> None:
    assert cli(*BENCH, "--version", "9").code == 5
    assert not world.engine.loads


def test_a_run_that_several_versions_answered_is_kept_under_their_mix(
    cli: Cli, world: World
) -> None:
    world.engine.answered = [{"wine/1": 35, "wine/2": 15}, {"wine/1": 35, "wine/2": 15}]

    ran = cli(*BENCH, "--save")

    [run] = world.store.kept
    assert (run.version, run.release) == ("wine/1 70 %, wine/2 30 % as answered", None)
    assert ran.document["by_version"] == {"wine/1": 70, "wine/2": 30}


def test_versions_that_answered_one_load_test_are_compared_in_json(cli: Cli, world: World) -> None:
    world.engine.answered = [{"wine/1": 300, "wine/2": 200}] * 10
    world.engine.taking = {"wine/1": 0.010, "wine/2": 0.012}

    ran = cli(*BENCH, "--save")

    [told] = ran.document["versions_compared"]
    assert (told["answered_by"], told["against"]) == ("wine/2", "wine/1")
    assert told["p99"]["low"] <= 1.2 <= told["p99"]["high"]
    assert told["p99"].keys() == {"against_s", "answered_s", "ratio", "low", "high"}
    assert told["verdict"].startswith("wine/2 is ")
    assert set(world.store.kept[0].summary.response_blocks_by_version) == {"wine/1", "wine/2"}


def test_versions_that_answered_one_load_test_are_compared_in_words(cli: Cli, world: World) -> None:
    world.engine.answered = [{"1": 300, "2": 100}] * 10
    world.engine.taking = {"1": 0.010, "2": 0.020}

    ran = cli(*BENCH[:-1])

    assert "percent slower at p99 and " in ran.out
    assert "than wine/1.\n" in ran.out
    assert ran.out.endswith(
        "wine/1 gave 3,000 answers, wine/2 1,000: load alone changes latency.\n"
    )


def test_a_load_test_of_one_version_compares_nothing(cli: Cli) -> None:
    assert cli(*BENCH).document["versions_compared"] == []


def test_publish(cli: Cli) -> None:
    ran = cli("publish", "wine/3", "--json")

    assert ran.code == 0
    assert {"uri", "digest", "files", "bytes", "reused"} == ran.document.keys()


@pytest.mark.parametrize("words", [("image", "wine/3"), ("render", "wine/3", "--name", "wine")])
def test_what_this_machine_does_not_do_yet_says_so(cli: Cli, words: tuple[str, ...]) -> None:
    ran = cli(*words, "--json")

    assert (ran.code, ran.document["error"]["kind"]) == (7, "NotOffered")
    assert "not yet for this target" in ran.document["error"]["what"]


def test_watch_deploys_what_the_alias_points_to(cli: Cli, world: World) -> None:
    words = ("watch", "--model", "wine", "--alias", "champion", "--name", "wine", "--once")

    first = cli(*words, "--json").document
    again = cli(*words, "--json").document

    assert {"time", "version", "action", "outcome"} <= first.keys()
    assert (first["version"], first["action"], first["outcome"]) == (1, "deploy", "verified")
    assert (again["action"], again["outcome"]) == ("none", "unchanged")
    assert world.wanted_version("wine") == VersionRef("wine", 1)


def test_watch_does_not_try_a_failed_version_again(cli: Cli, world: World) -> None:
    world.registry.aliases["wine"]["champion"] = 3
    world.serving.fails[VersionRef("wine", 3)] = Cause("no such package")
    words = ("watch", "--model", "wine", "--alias", "champion", "--name", "wine", "--once")

    first = cli(*words, "--json")
    again = cli(*words, "--json")

    assert (first.code, first.document["outcome"]) == (8, "failed")
    assert (again.code, again.document["action"]) == (0, "skip")


# ── Errors ────────────────────────────────────────────────────────────────────────────────────

CODES: dict[type[SlipwayError], int] = {
    ConfigError: 2,
    Unreachable: 3,
    Denied: 4,
    NotFound: 5,
    Conflict: 6,
    NotDeployable: 7,
    NothingToRollBackTo: 7,
    NotOffered: 7,
    RolloutFailed: 8,
    RolloutTimeout: 9,
    InferenceFailed: 10,
    SignatureMismatch: 10,
    ObjectiveMissed: 10,
    ObjectiveNotJudged: 10,
}


def test_every_error_has_its_exit_code_here() -> None:
    found = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, SlipwayError) and kind is not SlipwayError
    }

    assert found == CODES.keys()


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_an_error_gives_its_code_and_one_document(
    cli: Cli, world: World, kind: type[SlipwayError]
) -> None:
    world.registry.broken = kind("It happened.", "A fact.", "Do this.")

    ran = cli("models", "--json")

    assert ran.code == CODES[kind]
    assert ran.document == {
        "error": {
            "kind": kind.__name__,
            "what": "It happened.",
            "why": "A fact.",
            "fix": "Do this.",
        }
    }


def test_an_error_is_three_lines_on_stderr(cli: Cli, world: World) -> None:
    world.registry.broken = Unreachable("It happened.", "A fact.", "Do this.")

    ran = cli("models")

    assert ran.err.splitlines() == ["It happened.", "A fact.", "Do this."]
    assert ran.out == ""


def _refused_write(world: World) -> None:
    world.store.broken = Unreachable("The store is full.")


def _foreign(world: World) -> None:
    world.serving.held["wine"].managed = False


@pytest.mark.parametrize(
    ("words", "prepare", "code"),
    [
        (("show", "wine/99"), None, 5),
        (("show", "nonsense"), None, 5),
        (("status", "beer"), None, 5),
        (("history", "beer"), None, 5),
        (("logs", "beer"), None, 5),
        (("predict", "beer"), None, 5),
        (("predict", "wine", "--version", "9"), None, 5),
        (("deploy", "wine/3", "--name", "wine", "--target", "mars"), None, 5),
        (("deploy", "wine/3", "--name", "Not_A_Name"), None, 7),
        (("promote", "wine"), None, 7),
        (("rollback", "wine"), _foreign, 7),
        (("rollback", "wine"), _refused_write, 3),
        (("rollback", "wine", "--to", "77"), None, 5),
        (("deploy", "wine/3", "--name", "wine", "--mode", "Knative"), None, 7),
    ],
)
def test_what_cannot_be_is_refused_without_a_write(
    cli: Cli,
    world: World,
    words: tuple[str, ...],
    prepare: Callable[[World], None] | None,
    code: int,
) -> None:
    writes = len(world.serving.applied)
    if prepare is not None:
        prepare(world)

    ran = cli(*words, "--json")

    assert ran.code == code
    assert ran.document.keys() == {"error"}
    assert len(world.serving.applied) == writes


def test_a_failed_prediction_exits_with_10(cli: Cli, world: World) -> None:
    world.predictor.fails = InferenceFailed("The endpoint answered 500.")

    assert cli("predict", "wine", "--json").code == 10


def test_after_a_failed_roll_out_the_example_is_that_of_the_version_that_answers(
    cli: Cli, world: World
) -> None:
    world.serving.fails[VersionRef("wine", 9)] = Cause("It did not load.")
    world.registry.add("wine", 9, example=None)
    assert cli("deploy", "wine/9", "--name", "wine", "--yes", "--json").code == 8

    assert cli("predict", "wine", "--json").code == 0


def test_the_doctor_says_a_fix_of_several_checks_once(cli: Cli, world: World) -> None:
    world.packager.found = tuple(
        Finding("permission", Verdict.FAIL, f"You may not {verb} pods.", "Apply the Role.")
        for verb in ("get", "list", "watch")
    )
    ran = cli("doctor")
    assert ran.out.count("Apply the Role.") == 1
    assert ran.out.index("watch pods") < ran.out.index("Apply the Role.")
    fixes = [row["fix"] for row in cli("doctor", "--json").document["checks"][-3:]]
    assert fixes == ["Apply the Role."] * 3


def test_a_long_detail_of_a_check_is_shown_to_its_end(cli: Cli, world: World) -> None:
    detail = f"{'exit status 1: ' * 30}You do not currently have an active account selected"
    world.packager.found = (Finding("target", Verdict.FAIL, detail, "Log in."),)
    assert "You do not currently have an active account selected" in cli("doctor").out


def test_a_service_of_others_is_asked_what_it_takes(cli: Cli, world: World) -> None:
    held = world.serving.held["wine"]
    held.intent = replace(held.intent, signature=None)
    world.journal.by_service.clear()
    world.predictor.tells = Signature((ColumnSpec("alcohol", ValueKind.DOUBLE),))

    ran = cli("predict", "wine", "--input", "-", "--json", stdin=io.StringIO('[{"wrong": 1}]'))

    assert ran.code == 10
    assert "alcohol" in ran.document["error"]["why"]


@pytest.mark.parametrize(
    ("word", "fix"), [("modles", "`slipway models`"), ("versions", "`slipway --help`")]
)
def test_a_verb_that_is_none_is_told_with_all_that_are(cli: Cli, word: str, fix: str) -> None:
    error = cli(word, "wine", "--json").document["error"]
    assert error["what"] == f"There is no verb '{word}'."
    assert "rollback" in error["why"]
    assert fix in error["fix"]
