"""How the command line behaves around its verbs: options, streams, questions, workflows, bugs."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dashboard.cli import VERBS, main
from dashboard.terminal import Terminal, literal, table
from services.domain import (
    Applied,
    Finding,
    LogLine,
    Observed,
    Outcome,
    OwnedField,
    Plan,
    Release,
    Verdict,
    VersionRef,
)
from services.errors import ConfigError, Unreachable
from tests.cli.conftest import Cli, FakeTerminal
from tests.memory import START, MemoryServing, World

HOSTILE = "x\n::set-output name=a::b\r##[add-mask]y | `z` <b> ${{ github.token }} \x1b[2J\u202e"


@pytest.fixture
def world(world: World) -> World:
    world.registry.add("wine", 1)
    world.registry.add("wine", 2, aliases=("champion",))
    world.serves("wine", (1,))
    return world


def test_progress_is_at_a_hundred_percent_when_it_is_done_and_not_before() -> None:
    words = io.StringIO()
    show = Terminal(io.StringIO(), words, None).report()
    for line, ratio in (("six", 0.997), ("half", 0.29), ("seven", 1.0)):
        show(line, ratio)
    assert words.getvalue().split("\n")[:3] == ["  six (99%)", "  half (29%)", "  seven (100%)"]


# ── Options ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words", [("--json", "models"), ("models", "--json"), ("--target", "local", "models", "--json")]
)
def test_global_options_stand_before_or_after_the_verb(cli: Cli, words: tuple[str, ...]) -> None:
    assert len(cli(*words).document["models"]) == 1


def test_a_global_option_before_the_verb_is_not_lost(cli: Cli) -> None:
    ran = cli("--target", "mars", "status", "--json")

    assert ran.code == 5
    assert "mars" in ran.document["error"]["what"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("fly",),
        ("deploy", "wine/2"),
        ("deploy", "wine/2", "--name", "wine", "--timeout", "soon"),
        ("deploy", "wine/2", "--name", "wine", "--timeout", "nan"),
        ("deploy", "wine/2", "--name", "wine", "--cpu", "lots"),
        ("models", "--jso"),
        ("models", "--unknown"),
        ("bench", "wine", "--duration", "1"),
        ("bench", "wine", "--rate", "1", "--concurrency", "1", "--duration", "1"),
        ("bench", "wine", "--rate", "-1", "--duration", "1"),
        ("predict", "wine", "--input", "missing.json"),
        ("predict", "wine", "--protocol", "carrier-pigeon"),
        ("models", "--config", "missing.toml"),
        ("logs", "wine", "--follow"),
    ],
)
def test_wrong_usage_exits_with_2_and_one_document(cli: Cli, words: tuple[str, ...]) -> None:
    ran = cli(*words, "--json")

    assert ran.code == 2
    assert ran.document["error"]["kind"] == "ConfigError"


def test_an_unknown_setting_exits_with_2(cli: Cli) -> None:
    ran = cli("models", "--json", environ={"SLIPWAY_DEFAULT_TARGTE": "x"})

    assert ran.code == 2
    assert "default_target" in ran.document["error"]["fix"]


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_has_help_with_an_example(cli: Cli, verb: str) -> None:
    ran = cli(verb, "--help")

    assert ran.code == 0
    assert f"example:\n  slipway {verb}" in ran.out


def test_the_version_is_told(cli: Cli) -> None:
    ran = cli("--version")

    assert (ran.code, bool(re.fullmatch(r"\d+\.\d+\.\d+\n", ran.out))) == (0, True)


# ── Streams ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words",
    [
        ("models",),
        ("models", "wine"),
        ("show", "wine/1"),
        ("targets",),
        ("doctor",),
        ("plan", "wine/2", "--name", "wine"),
        ("deploy", "wine/2", "--name", "wine"),
        ("status",),
        ("history", "wine"),
        ("logs", "wine"),
        ("events", "wine"),
        ("predict", "wine"),
        ("bench", "wine", "--rate", "10", "--duration", "1"),
        ("publish", "wine/2"),
        ("stop", "wine"),
        ("delete", "wine", "--yes"),
    ],
    ids=lambda words: words[0],
)
def test_a_verb_shows_people_something_on_stdout(cli: Cli, words: tuple[str, ...]) -> None:
    ran = cli(*words)

    assert ran.code == 0
    assert ran.out.strip()


def test_what_a_library_prints_does_not_reach_stdout(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = MemoryServing.services

    def noisy(self: MemoryServing) -> object:
        print("Successfully noisy!")  # noqa: T201
        return look(self)

    monkeypatch.setattr(MemoryServing, "services", noisy)

    ran = cli("status", "--json")

    assert len(ran.document["services"]) == 1
    assert "Successfully noisy!" in ran.err


def test_numbers_that_json_lacks_become_null(cli: Cli, world: World) -> None:
    ref = world.registry.add("odd", 1, metrics={"loss": float("nan"), "gain": float("inf")})

    document = cli("show", str(ref), "--json").document

    assert document["metrics"] == {"loss": None, "gain": None}


def test_hostile_text_stays_on_its_line(cli: Cli, world: World) -> None:
    ref = VersionRef("wine", 1)
    world.registry.by_model["wine"][1] = replace(
        world.registry.by_model["wine"][1], description=HOSTILE, tags={"t": HOSTILE}
    )

    ran = cli("show", str(ref))

    assert "\x1b" not in ran.out
    assert "\u202e" not in ran.out
    assert not any(line.startswith("::") for line in ran.out.splitlines())


def test_a_reader_that_left_is_no_bug(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    assert main(["--version"], environ={}, stdout=Closed()) == 141


# ── Predicting ────────────────────────────────────────────────────────────────────────────────


def test_rows_come_from_standard_input(cli: Cli, world: World) -> None:
    rows = io.StringIO("alcohol,hue\n13,1.0\n12,0.9\n")

    ran = cli("predict", "wine", "--input", "-", "--json", stdin=rows)

    assert ran.code == 0
    assert world.predictor.sent[-1].rows == 2


def test_rows_come_from_a_file(cli: Cli, world: World, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"alcohol": 13, "hue": 1}]')

    assert cli("predict", "wine", "--input", "rows.json").code == 0
    assert world.predictor.sent[-1].rows == 1


def test_rows_that_do_not_fit_are_not_sent(cli: Cli, world: World) -> None:
    sent = len(world.predictor.sent)

    ran = cli("predict", "wine", "--input", "-", "--json", stdin=io.StringIO('{"alcohol": 1}'))

    assert (ran.code, ran.document["error"]["kind"]) == (10, "SignatureMismatch")
    assert len(world.predictor.sent) == sent


@pytest.mark.parametrize("words", [("predict",), ("bench", "--rate", "1", "--duration", "1")])
def test_a_stopped_service_is_said_to_be_stopped(cli: Cli, words: tuple[str, ...]) -> None:
    cli("stop", "wine")

    ran = cli(words[0], "wine", *words[1:], "--json")

    assert ran.code == 3
    assert ran.document["error"]["fix"] == "Start it: `slipway start wine`."


# ── Confirming ────────────────────────────────────────────────────────────────────────────────


def test_a_protected_target_wants_the_name(cli: Cli, world: World) -> None:
    world.protected = True

    refused = cli("deploy", "wine/2", "--name", "wine", "--yes", "--json")
    confirmed = cli("deploy", "wine/2", "--name", "wine", "--confirm", "wine", "--json")

    assert (refused.code, confirmed.code) == (2, 0)
    assert "--confirm wine" in refused.document["error"]["fix"]


def test_a_confirmation_of_another_name_is_refused(cli: Cli, world: World) -> None:
    writes = len(world.serving.applied)

    ran = cli("deploy", "wine/2", "--name", "wine", "--confirm", "beer")

    assert (ran.code, len(world.serving.applied)) == (2, writes)


def test_delete_is_refused_without_a_terminal_or_a_confirmation(cli: Cli, world: World) -> None:
    ran = cli("delete", "wine", "--json")

    assert ran.code == 2
    assert world.serving.service("wine") is not None


def _warn(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    rehearse = world.serving.rehearse
    warning = Finding("memory", Verdict.WARN, "It will be tight.")
    monkeypatch.setattr(
        world.serving,
        "rehearse",
        lambda plan: replace(rehearse(plan), findings=(warning,)),
    )


def test_a_warning_asks_and_nobody_is_there(
    cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _warn(monkeypatch, world)

    ran = cli("deploy", "wine/2", "--name", "wine", "--json")

    assert (ran.code, ran.document["error"]["fix"]) == (2, "Say --yes when that is meant.")


def test_yes_answers_a_warning(cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _warn(monkeypatch, world)

    assert cli("deploy", "wine/2", "--name", "wine", "--yes").code == 0


def test_a_failed_check_forbids_even_with_yes(
    cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearse = world.serving.rehearse
    failed = Finding("disk", Verdict.FAIL, "It is full.", "Free some space.")
    monkeypatch.setattr(
        world.serving, "rehearse", lambda plan: replace(rehearse(plan), findings=(failed,))
    )

    ran = cli("deploy", "wine/2", "--name", "wine", "--yes", "--json")

    assert (ran.code, ran.document["error"]["fix"]) == (7, "Free some space.")
    assert cli("plan", "wine/2", "--name", "wine", "--json").code == 7


def test_a_field_of_others_is_taken_over_only_from_who_is_named(cli: Cli, world: World) -> None:
    world.serving.owned = (OwnedField(".spec.predictor.minReplicas", "kubectl-edit"),)
    deploy = ("deploy", "wine/2", "--name", "wine", "--json", "--reason", "back to plan")

    assert cli(*deploy).code == 6
    assert cli(*deploy, "--take-over", "argocd").code == 6
    assert cli(*deploy, "--take-over", "kubectl-edit").code == 0
    told = "back to plan; took over .spec.predictor.minReplicas (kubectl-edit)"
    assert world.journal.history("wine")[0].reason == told


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("n\n", 130), ("\n", 130), ("", 130)])
def test_somebody_at_a_terminal_is_asked(cli: Cli, world: World, typed: str, code: int) -> None:
    writes = len(world.serving.applied)

    ran = cli("deploy", "wine/2", "--name", "wine", stdin=FakeTerminal(typed))

    assert ran.code == code
    assert len(world.serving.applied) == writes + (code == 0)


@pytest.mark.parametrize(("typed", "code"), [("wine\n", 0), ("y\n", 130)])
def test_delete_at_a_terminal_wants_the_name(cli: Cli, typed: str, code: int) -> None:
    assert cli("delete", "wine", stdin=FakeTerminal(typed)).code == code


def test_what_will_be_written_is_shown_with_where(cli: Cli) -> None:
    ran = cli("deploy", "wine/2", "--name", "wine", "--json")

    assert "deploy wine on local (test-machine)" in ran.err
    assert "version: wine/1 → wine/2" in ran.err


# ── Aliases ───────────────────────────────────────────────────────────────────────────────────


def test_an_alias_moves_with_a_verified_release(cli: Cli, world: World) -> None:
    cli("deploy", "wine/2", "--name", "wine", "--set-alias", "live")

    assert world.registry.aliases["wine"]["live"] == 2


def test_an_alias_stays_when_the_release_is_not_verified(cli: Cli, world: World) -> None:
    world.registry.add("plain", 1, example=None)

    ran = cli("deploy", "plain/1", "--name", "plain", "--yes", "--set-alias", "live")

    assert "live" not in world.registry.aliases.get("plain", {})
    assert "was not moved" in ran.err


# ── Interruptions ─────────────────────────────────────────────────────────────────────────────


class InterruptedServing(MemoryServing):
    """Somebody presses Ctrl-C as soon as the roll-out is looked at."""

    def observe(self, name: str) -> Observed:
        if self.world.journal.history(name)[0].outcome is Outcome.OPEN:
            raise KeyboardInterrupt
        return super().observe(name)


def test_an_interrupted_roll_out_goes_on(cli: Cli, world: World) -> None:
    world.registry.add("beer", 1)
    world.serving = InterruptedServing(world)

    ran = cli("deploy", "beer/1", "--name", "beer", "--json")

    assert ran.code == 130
    assert "goes on" in ran.document["error"]["what"]
    assert world.wanted_version("beer") == VersionRef("beer", 1)


AWAY = Unreachable(
    "Could not list the services on t: 127.0.0.1:6443 did not answer.",
    why="Connection refused.",
    fix="Look whether it runs.",
)


class LostServing(MemoryServing):
    """The API server goes away for good as soon as an operation of `beer` has come so far."""

    def __init__(self, world: World, so_far: Outcome) -> None:
        super().__init__(world)
        self.so_far = so_far
        self.writing = False

    def _look(self) -> None:
        history = self.world.journal.history("beer")
        if history and history[0].outcome is self.so_far and not self.writing:
            raise AWAY
        super()._look()

    def apply(self, plan: Plan, release: Release) -> Applied:
        self.writing = True
        applied = super().apply(plan, release)
        self.writing = False
        return applied


def test_a_target_lost_in_mid_roll_out_is_told_with_the_release_that_goes_on(
    cli: Cli, world: World
) -> None:
    world.registry.add("beer", 1)
    world.serving = LostServing(world, Outcome.OPEN)

    ran = cli("deploy", "beer/1", "--name", "beer", "--timeout", "0.1", "--json")

    error = ran.document["error"]
    assert (ran.code, error["kind"]) == (3, "Unreachable")
    assert error["what"].startswith(AWAY.what)
    assert "Release 1 of beer that was begun goes on." in error["what"]
    assert (error["why"], "slipway status beer" in error["fix"]) == (AWAY.why, True)
    assert AWAY.fix in error["fix"]
    assert {key: ran.document[key] for key in ("service", "version", "release", "outcome")} == {
        "service": "beer",
        "version": 1,
        "release": 1,
        "outcome": "open",
    }


def test_a_target_lost_after_a_start_that_nobody_waits_for_leaves_it_open(
    cli: Cli, world: World
) -> None:
    world.registry.add("beer", 1)
    world.serving = LostServing(world, Outcome.OPEN)

    ran = cli("deploy", "beer/1", "--name", "beer", "--no-wait", "--json")

    assert (ran.code, ran.document["outcome"], ran.document["release"]) == (0, "open", 1)
    assert "Where beer is reached is not known" in ran.err


def test_a_target_lost_after_the_outcome_takes_nothing_from_it(cli: Cli, world: World) -> None:
    world.registry.add("beer", 1)
    world.serving = LostServing(world, Outcome.VERIFIED)

    ran = cli("deploy", "beer/1", "--name", "beer", "--json")

    assert (ran.code, ran.document["outcome"], ran.document["url"]) == (0, "verified", None)
    assert [row["version"] for row in ran.document["traffic"]] == [1]


def test_a_target_lost_after_a_stop_was_begun_is_told_with_its_release(
    cli: Cli, world: World
) -> None:
    world.registry.add("beer", 1)
    cli("deploy", "beer/1", "--name", "beer")
    lost = LostServing(world, Outcome.OPEN)
    lost.held = world.serving.held
    world.serving = lost

    ran = cli("stop", "beer", "--yes", "--timeout", "0.1", "--json")

    assert (ran.code, ran.document["release"], ran.document["outcome"]) == (3, 2, "open")
    assert "that was begun goes on" in ran.document["error"]["what"]


# ── Bugs ──────────────────────────────────────────────────────────────────────────────────────


def test_a_bug_is_one_line_and_a_traceback_in_the_log(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: MemoryServing) -> object:
        raise ZeroDivisionError("password=hunter2")

    monkeypatch.setattr(MemoryServing, "services", broken)

    ran = cli("status", "--json")

    assert ran.code == 1
    path = re.search(r"traceback is in (\S+)\.", ran.document["error"]["what"])
    assert path is not None
    last = json.loads(Path(path[1]).read_text().splitlines()[-2])
    assert "ZeroDivisionError" in last["traceback"]
    assert "hunter2" not in Path(path[1]).read_text()
    assert "Traceback" not in ran.err


def test_verbose_shows_the_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: MemoryServing) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(MemoryServing, "services", broken)

    assert "ZeroDivisionError" in cli("status", "-v").err


# ── GitHub Actions ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def workflow(tmp_path: Path) -> dict[str, str]:
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTOR": "ana",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "acme/models",
        "GITHUB_RUN_ID": "17",
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }


def test_an_error_is_an_annotation_in_a_workflow(
    cli: Cli, world: World, workflow: dict[str, str]
) -> None:
    world.registry.broken = Unreachable("100% gone:\nno, really", fix="Start it.")

    ran = cli("models", "--json", environ=workflow)

    assert "::error title=Unreachable::100%25 gone:%0Ano, really Start it." in ran.err
    assert ran.document["error"]["kind"] == "Unreachable"


def test_a_deploy_tells_the_workflow_how_it_ended(
    cli: Cli, world: World, workflow: dict[str, str], tmp_path: Path
) -> None:
    cli("deploy", "wine/2", "--name", "wine", environ=workflow)

    output = (tmp_path / "output").read_text()
    values = dict(re.findall(r"(\w+)<<(?:slipway_\w+)\n(.*)\n", output))
    assert values == {
        "release": "2",
        "version": "2",
        "url": "http://127.0.0.1:1234",
        "outcome": "verified",
    }
    assert "Slipway" in (tmp_path / "summary").read_text()
    newest = world.store.entries()[0]
    assert (newest.actor, newest.origin) == (
        "ana",
        "https://github.com/acme/models/actions/runs/17",
    )


def test_hostile_text_cannot_speak_to_the_runner(
    cli: Cli, world: World, workflow: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = LogLine(START, "::error::", HOSTILE)
    monkeypatch.setattr(world.serving, "logs", lambda *_a, **_k: iter([line]))

    shown = cli("logs", "wine", environ=workflow)
    document = cli("logs", "wine", "--json", environ=workflow)

    for text in (shown.out, document.out):
        assert "##[" not in text
        assert not any(each.lstrip().startswith("::") for each in text.splitlines())
    assert "##[add-mask]" in document.document["entries"][0]["text"]


def test_markdown_shows_hostile_text_as_it_is() -> None:
    assert re.fullmatch(r"(?:[\w ]|&#\d+;)*", literal("| <img src=x> `a` [b](c) ${{ d }}"))


# ── Without Streamlit ─────────────────────────────────────────────────────────────────────────


def test_a_taken_port_is_told_before_the_dashboard_starts(cli: Cli) -> None:
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]

        ran = cli("ui", "--port", str(port), "--json")

    assert (ran.code, ran.document["error"]["kind"]) == (2, "ConfigError")


def test_the_demo_does_not_go_into_a_team_s_registry(cli: Cli) -> None:
    ran = cli("demo", "--json", environ={"MLFLOW_TRACKING_URI": "http://mlflow.example:5000"})

    assert ran.code == 2
    assert ran.document["error"]["kind"] == ConfigError.__name__


def test_wide_letters_keep_the_columns_in_line() -> None:
    first, second, third = table(("NAME", "N"), [("日本", 1), ("abcd", 2)])

    assert (first, second, third) == ("NAME  N", "日本  1", "abcd  2")
