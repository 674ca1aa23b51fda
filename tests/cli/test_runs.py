"""`slipway runs`: stored load tests are listed, opened, compared and exported from a terminal."""

from __future__ import annotations

import csv
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from services import records
from services.errors import Unreachable
from services.histogram import Histogram
from services.latency import Recorder, Slice
from services.ports import Run, StoredRuns
from services.tally import Answerer
from tests.cli.conftest import Cli
from tests.memory import World


def kept(world: World, *, ms: float = 4.0, hour: int = 9, **fields: object) -> int:
    """A stored load test whose answers took `ms`; its id."""
    recorder = Recorder()
    for number in range(20):
        piece = Slice((number + 1) / 4)
        piece.response[Answerer(version="1")] = times = Histogram()
        times.record_all([round(ms * 1e6)] * 140)
        piece.service.merge(times)
        recorder.add(piece)
    run = Run(
        id=None,
        name="before the holidays",
        actor="ana",
        created_at=f"2026-03-01T{hour:02}:30:00+00:00",
        target="memory",
        namespace="models",
        service="wine",
        release=2,
        version="wine/1",
        settings=json.dumps(
            {"mode": "steady-rate", "rate": 50, "protocol": "v2", "rows": 1}
            | {"endpoint": {"via": "ingress"}, "objective": {"p99_s": 0.02}}
        ),
        summary=recorder.summary(span_s=5.0),
        ticks=(),
    )
    return world.store.save_run(replace(run, **fields))  # type: ignore[arg-type]  # by name


def test_kept_load_tests_are_listed_newest_first(cli: Cli, world: World) -> None:
    first, second = kept(world), kept(world, hour=10)

    rows = cli("runs", "--json").document["runs"]

    assert [row["run"] for row in rows] == [second, first]
    assert (rows[0]["actor"], rows[0]["release"], rows[0]["answered_by"]) == (
        "ana",
        2,
        {"wine/1": 2800},
    )
    assert rows[0]["asked"]["via"] == "ingress"
    assert rows[0]["created_at"] == "2026-03-01T10:30:00.000Z"
    assert rows[0]["latency_s"]["p50"] == pytest.approx(0.004, rel=0.01)


def test_a_kept_bench_is_among_them(cli: Cli, world: World) -> None:
    world.registry.add("wine", 1)
    world.serves("wine", (1,))
    saved = cli("bench", "wine", "--rate", "5", "--duration", "1", "--save", "--json").document

    [row] = cli("runs", "wine", "--json").document["runs"]

    assert (row["run"], row["asked"]["rate"]) == (saved["run"], 5)
    assert row["asked"]["via"] == "loopback"


def test_only_those_of_a_service_a_target_and_a_namespace_are_listed(
    cli: Cli, world: World
) -> None:
    mine = kept(world, namespace="here")
    kept(world, namespace="here", service="other")
    kept(world, namespace="here", target="prod")
    kept(world, namespace="there")
    where = ("wine", "--target", "memory", "--namespace", "here")

    assert [row["run"] for row in cli("runs", *where, "--json").document["runs"]] == [mine]
    assert cli("runs", *where, "--id", str(mine)).code == 0
    assert cli("runs", "other", "--id", str(mine)).code == 5
    assert cli("runs", "--namespace", "there", "--id", str(mine)).code == 5


def test_so_many_of_the_newest_are_listed_as_are_asked_for(cli: Cli, world: World) -> None:
    ids = [kept(world) for _ in range(22)]

    def listed(*words: str) -> list[int]:
        return [row["run"] for row in cli("runs", *words, "--json").document["runs"]]

    assert listed() == ids[:1:-1]
    assert listed("--limit", "3") == ids[:-4:-1]
    assert "there are more" in cli("runs").err
    assert "there are more" not in cli("runs", "--limit", "22").err


def test_a_run_that_nobody_answered_is_said_to_be_nobodys(cli: Cli, world: World) -> None:
    number = kept(world, summary=Recorder().summary(span_s=5.0))
    assert "nobody" in cli("runs").out
    assert cli("runs", "--id", str(number), "--json").document["runs"][0]["answered_by"] == {}


def test_a_number_without_its_option_is_told_the_option(cli: Cli, world: World) -> None:
    number = str(kept(world))
    ran = cli("runs", number, "--json")
    assert (ran.code, ran.document["error"]["fix"]) == (5, f"Open it: slipway runs --id {number}.")


def test_none_is_no_failure_and_says_how_to_keep_one(cli: Cli) -> None:
    ran = cli("runs", "wine")

    assert (ran.code, ran.out) == (0, "")
    assert "--save" in ran.err
    assert "service wine" in ran.err


def test_none_is_written_where_there_is_none(cli: Cli, tmp_path: Path) -> None:
    ran = cli("runs", "wine", "--out", str(tmp_path / "runs.csv"), "--json")

    assert (ran.code, ran.document["error"]["kind"]) == (5, "NotFound")
    assert not list(tmp_path.glob("*.csv"))


def test_one_is_told_in_full(cli: Cli, world: World) -> None:
    number = kept(world)

    ran = cli("runs", "--id", str(number))

    assert f"#{number} wine/1: before the holidays" in ran.out
    assert "by ana; memory/models/wine, release 2; by way of ingress; V2, 1 row" in ran.out
    assert "verdict" in ran.out
    document = cli("runs", "--id", str(number), "--json").document
    assert document["runs"][0]["versions_compared"] == []
    assert document["compared"] == []


def test_each_is_compared_with_the_earliest(cli: Cli, world: World) -> None:
    first, second = kept(world), kept(world, hour=10, ms=6.0)

    document = cli("runs", "--id", str(second), str(first), "--json").document

    [found] = document["compared"]
    assert (found["run"], found["against"]) == (second, first)
    assert found["p99"]["ratio"] == pytest.approx(1.5, rel=0.02)
    assert "50 percent slower at p99" in found["verdict"]
    assert found["verdict"] in cli("runs", "--id", str(first), "--id", str(second)).out


def test_one_that_is_named_twice_is_told_once(cli: Cli, world: World) -> None:
    number = str(kept(world))
    document = cli("runs", "--id", number, number, "--json").document
    assert (len(document["runs"]), document["compared"]) == (1, [])


def test_those_of_two_services_are_compared_with_a_warning(cli: Cli, world: World) -> None:
    ids = [str(kept(world)), str(kept(world, hour=10, service="text"))]
    [found] = cli("runs", "--id", *ids, "--json").document["compared"]
    assert "They are of memory/models/wine and of memory/models/text." in found["warnings"]


@pytest.mark.parametrize("many", [("--id", *map(str, range(1, 22))), ("--out", "runs.html")])
def test_more_than_can_be_looked_at_are_not_opened(
    cli: Cli, world: World, many: tuple[str, ...]
) -> None:
    for _ in range(21):
        kept(world)
    limit = () if "--id" in many else ("--limit", "30")
    ran = cli("runs", *many, *limit, "--json")
    assert (ran.code, ran.document["error"]["kind"]) == (2, "ConfigError")
    assert not Path("runs.html").exists()


def test_how_many_is_not_said_beside_which(cli: Cli, world: World) -> None:
    assert cli("runs", "--id", str(kept(world)), "--limit", "3").code == 2


def test_a_page_needs_the_dashboards_libraries(
    cli: Cli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(world)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    ran = cli("runs", "--out", str(tmp_path / "runs.html"), "--json")
    assert (ran.code, ran.document["error"]["kind"]) == (2, "ConfigError")
    assert "--extra dashboard" in ran.document["error"]["fix"]


def test_foreign_words_are_no_commands_to_the_terminal(cli: Cli, world: World) -> None:
    number = kept(world, name="\x1b[2Jgone", version="wine/1\x1b]0;title\x07")
    for words in (("runs",), ("runs", "--id", str(number))):
        assert "\x1b" not in cli(*words).out


def test_those_over_different_hops_are_compared_with_a_warning(cli: Cli, world: World) -> None:
    first = kept(world)
    second = kept(world, hour=10, settings='{"endpoint": {"via": "service-proxy"}}')

    [found] = cli("runs", "--id", str(first), str(second), "--json").document["compared"]

    told = cli("runs", "--id", str(first), str(second)).out
    assert f"#{second} wine/1 against #{first} wine/1: " in told
    assert any("ingress" in warning for warning in found["warnings"])


def test_one_that_is_not_there_is_told_and_nothing_is_written(
    cli: Cli, world: World, tmp_path: Path
) -> None:
    out = tmp_path / "runs.csv"
    ran = cli("runs", "--id", str(kept(world)), "77", "--out", str(out), "--json")

    assert (ran.code, ran.document["error"]["kind"]) == (5, "NotFound")
    assert "77" in ran.document["error"]["what"]
    assert not out.exists()


def test_a_damaged_one_is_named_and_hides_no_other(
    cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world.store.runs(ids=[kept(world)]).found
    monkeypatch.setattr(world.store, "runs", lambda **_asked: StoredRuns(found, (9,)))

    ran = cli("runs")

    assert ran.code == 0
    assert "before the holidays" in ran.out
    assert "load test 9" in ran.err
    opened = cli("runs", "--id", "9", "--json")
    assert (opened.code, opened.document["error"]["what"]) == (
        5,
        "Damaged in the store: load test 9.",
    )


def test_they_are_written_as_csv_json_and_html(cli: Cli, world: World, tmp_path: Path) -> None:
    kept(world)
    for ending in ("csv", "json", "html"):
        assert cli("runs", "--out", str(tmp_path / f"runs.{ending}"), "--json").code == 0

    [row] = csv.DictReader((tmp_path / "runs.csv").read_text().splitlines())
    assert row["asked"] == "before the holidays"
    [whole] = json.loads((tmp_path / "runs.json").read_text())
    assert records.load(Run, json.dumps(whole)).service == "wine"
    assert "<h1>Load tests of wine</h1>" in (tmp_path / "runs.html").read_text()


@pytest.mark.parametrize("name", ["runs", "runs.xlsx"])
def test_a_file_of_no_known_kind_is_refused(cli: Cli, world: World, name: str) -> None:
    kept(world)
    ran = cli("runs", "--out", name, "--json")

    assert (ran.code, ran.document["error"]["kind"]) == (2, "ConfigError")
    assert ".csv, .json or .html" in ran.document["error"]["fix"]


def test_a_file_that_cannot_be_written_is_told(cli: Cli, world: World, tmp_path: Path) -> None:
    kept(world)
    ran = cli("runs", "--out", str(tmp_path / "nowhere" / "runs.csv"), "--json")

    assert (ran.code, ran.document["error"]["kind"]) == (2, "ConfigError")
    assert "No such file" in ran.document["error"]["why"]


@pytest.mark.parametrize("number", ["0", "-1", "x", str(2**63)])
def test_what_is_no_number_of_a_load_test_is_refused(cli: Cli, number: str) -> None:
    assert cli("runs", f"--id={number}", "--json").code == 2


def test_they_are_read_without_asking_the_target(cli: Cli, world: World) -> None:
    kept(world)
    world.serving.broken = Unreachable("The target does not answer.")
    assert "before the holidays" in cli("runs").out
