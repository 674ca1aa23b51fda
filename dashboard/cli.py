"""The command line: reads arguments, has a verb answer, writes the one result.

Verbs, options, JSON fields and exit codes are a contract (`docs/cli.md`). The verbs themselves are
in `dashboard.commands` and call what the pages call; no rule lives here. They are imported when
they are used, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from dashboard import views
from dashboard.commands.session import (
    DEFAULT_TIMEOUT_S,
    OK,
    Answer,
    Interrupted,
    Reach,
    Session,
    log,
)
from dashboard.terminal import Terminal, silence_broken_pipe
from services.domain import Protocol, may_name_a_service, service_name_problem
from services.errors import ConfigError, NotFound, SlipwayError, one_line

if TYPE_CHECKING:
    from services.settings import Settings

MOST_REQUESTS = 2_000
"""Of `predict --requests`: a measurement of a split, not a load test."""

READER_GONE = 141
"""128 + SIGPIPE, as other commands end when `| head` has seen enough."""


# ── Arguments ─────────────────────────────────────────────────────────────────────────────────


class _Parser(argparse.ArgumentParser):
    """argparse that speaks in our errors, and never guesses an abbreviated option."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 — argparse's own options
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        verb = re.match(r"argument VERB: invalid choice: '([^']*)'", message)
        if verb is not None:
            known = [one.name for one in VERBS]
            near = difflib.get_close_matches(verb[1], known, 1)
            raise ConfigError(
                f"There is no verb {one_line(verb[1], 40)!r}.",
                why=f"The verbs: {', '.join(known)}.",
                fix=f"Did you mean `slipway {near[0]}`?" if near else "Look at `slipway --help`.",
            )
        raise ConfigError(
            f"{one_line(message[:1].upper() + message[1:])}.",
            fix=f"Look at `{self.prog} --help`.",
        )


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return value


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def _no_promise(text: str) -> bool:
    return text.strip().lower() == "none"


def _promised_s(text: str) -> float:
    # 0 stands for no promise: nothing is answered in no time.
    return 0.0 if _no_promise(text) or float(text) == 0 else _positive(text)


def _promised_ratio(text: str) -> float:
    # 1 stands for no promise: all may fail.
    return 1.0 if _no_promise(text) else _ratio(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not 0 or more")
    return value


def _one_or_more(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below 0")
    return value


def _positive_count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_REQUESTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1 and {MOST_REQUESTS}")
    return value


def _run_number(text: str) -> int:
    number = _one_or_more(text)
    if number >= 2**63:
        raise ValueError(text)
    return number


def _port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return value


def _pair(text: str) -> tuple[str, str]:
    key, parted, value = text.partition("=")
    if not (parted and key.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key.strip(), value


def _quantity(text: str) -> str:
    # Kubernetes quantities, as resource.Quantity reads them: 500m, 2, 1Gi.
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no quantity such as 500m, 2 or 1Gi")
    return text


for _kind, _said in (
    (_positive, "number"),
    (_ratio, "ratio"),
    (_promised_s, "number of seconds"),
    (_promised_ratio, "ratio"),
    (_seconds, "number"),
    (_one_or_more, "number"),
    (_count, "number"),
    (_port, "port"),
    (_positive_count, "number"),
    (_run_number, "number"),
):
    _kind.__name__ = _said  # argparse names the type in "invalid … value"


def _add_globals(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: an option that stands before the verb must not be lost to the verb's own default.
    group = parser.add_argument_group("global options, before or after the verb")
    hidden = argparse.SUPPRESS
    group.add_argument("--config", metavar="FILE", default=hidden, help="configuration file")
    group.add_argument("--target", metavar="NAME", default=hidden, help="where to")
    group.add_argument("--namespace", metavar="NS", default=hidden, help="instead of the target's")
    group.add_argument(
        "--json", action="store_true", default=hidden, help="one JSON document on stdout"
    )
    group.add_argument("--yes", action="store_true", default=hidden, help="ask no questions")
    group.add_argument(
        "--confirm", metavar="NAME", default=hidden, help="the service's name, for protected ones"
    )
    group.add_argument(
        "-v", "--verbose", action="store_true", default=hidden, help="log and tracebacks on stderr"
    )


_GLOBALS: Mapping[str, object] = {
    "config": None,
    "target": None,
    "namespace": None,
    "json": False,
    "yes": False,
    "confirm": None,
    "verbose": False,
}


@dataclass(frozen=True)
class _Verb:
    """One verb: what it does, an example, the module of `commands` that answers it."""

    name: str
    help: str
    example: str
    module: str
    arguments: Callable[[argparse.ArgumentParser], None] = lambda _parser: None


def _ref(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ref", metavar="REF", help="wine/3, wine@champion or wine@latest")


def _image_arguments(parser: argparse.ArgumentParser) -> None:
    _ref(parser)
    parser.add_argument(
        "--print", action="store_true", help="only show the Dockerfile and the requirements"
    )


def _service(text: str) -> str:
    """The name of a service that may be there. NotFound for one that no service can have."""
    if may_name_a_service(text):
        return text
    raise NotFound(
        f"There is no service {one_line(repr(text), 80)}.",
        why=service_name_problem(text),
        fix="List what there is: slipway status.",
    )


def _measured(text: str) -> str:
    """The name of a service that may have been measured. NotFound for one that none can have."""
    if text.isdecimal():
        raise NotFound(
            f"There is no service {text}.",
            why="Load tests are named by their numbers with --id.",
            fix=f"Open it: slipway runs --id {text}.",
        )
    return _service(text)


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", type=_service, help="the service")


def _named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="the service")


def _reasoned(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="TEXT", help="kept with the release")


def _taking_over(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--take-over",
        metavar="MANAGER",
        action="append",
        help="take the fields that this sets from who owns them, as the plan names it; again for"
        " more",
    )


def _waiting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="follow until it is verified (the default)",
    )
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=_positive,
        default=DEFAULT_TIMEOUT_S,
        help="seconds to follow (default: 600)",
    )


def _models_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="its versions")
    parser.add_argument("--search", metavar="TEXT", help="in name and description")
    parser.add_argument("--alias", metavar="A", help="only what has this alias")


def _targets_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--project", metavar="P", help="also the GKE clusters of this Google Cloud project"
    )


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("left", metavar="REF", help="wine/2")
    parser.add_argument("right", metavar="REF", help="wine/3")


def _intent_arguments(parser: argparse.ArgumentParser) -> None:
    _ref(parser)
    _named(parser)
    parser.add_argument("--package", choices=("gcs", "image"), help="how the cluster gets it")
    parser.add_argument(
        "--environment",
        choices=("own", "runtime"),
        help="gcs: the version's libraries in an image of their own, or a runtime's",
    )
    parser.add_argument("--mode", choices=("Standard", "Knative"), help="deployment mode")
    parser.add_argument("--canary-percent", metavar="N", type=_count, help="share of the traffic")
    parser.add_argument("--min-replicas", metavar="N", type=_count)
    parser.add_argument("--max-replicas", metavar="N", type=_count)
    parser.add_argument("--cpu", metavar="Q", type=_quantity, help="500m, 2")
    parser.add_argument("--memory", metavar="Q", type=_quantity, help="512Mi, 2Gi")
    parser.add_argument(
        "--port", metavar="P", type=_port, help="local: port of the service's address"
    )
    more = parser.add_argument_group("on a cluster; what is left out stays as it is")
    more.add_argument("--runtime", metavar="R", help="ServingRuntime (default: one that fits)")
    more.add_argument("--service-account", metavar="SA", help="ServiceAccount of the pods")
    more.add_argument(
        "--request-timeout", metavar="S", type=_count, help="seconds that one request may take"
    )
    more.add_argument(
        "--env", metavar="K=V", type=_pair, action="append", help="of the server; again for more"
    )
    more.add_argument(
        "--label", metavar="K=V", type=_pair, action="append", help="of the pods; again for more"
    )
    more.add_argument("--patch", metavar="FILE", help="YAML merged into the manifest; - for stdin")


def _deploy_arguments(parser: argparse.ArgumentParser) -> None:
    _intent_arguments(parser)
    _waiting(parser)
    _reasoned(parser)
    _taking_over(parser)
    parser.add_argument("--set-alias", metavar="A", help="move this alias once it is verified")
    parser.add_argument(
        "--rollback-on-failure",
        action="store_true",
        help="if it fails, return to the newest verified release, once",
    )


def _canary_arguments(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    parser.add_argument("--percent", metavar="N", type=_count, required=True, help="0 to 99")
    _waiting(parser)
    _reasoned(parser)
    _taking_over(parser)


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    _intent_arguments(parser)
    _taking_over(parser)


def _followed_arguments(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    _waiting(parser)
    _reasoned(parser)


def _applied_arguments(parser: argparse.ArgumentParser) -> None:
    _followed_arguments(parser)
    _taking_over(parser)


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    _applied_arguments(parser)
    parser.add_argument("--to", metavar="RELEASE", type=_count, help="default: newest verified")
    parser.add_argument("--set-alias", metavar="A", help="move this alias back once it is verified")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", type=_service, nargs="?", help="one service")


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    parser.add_argument("--container", metavar="C", help="one container, or part of the service")
    parser.add_argument("--previous", action="store_true", help="of the instance before")
    parser.add_argument("--tail", metavar="N", type=_count, default=200, help="default: 200")
    parser.add_argument("--follow", action="store_true", help="go on until interrupted")


def _request_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    _name(parser)
    rows = parser.add_mutually_exclusive_group()
    if several:
        said = (
            "JSON, CSV, .parquet, or .jsonl with a request a line; given again, they take turns;"
            " - is stdin"
        )
        rows.add_argument("--input", metavar="FILE", action="append", help=said)
    else:
        rows.add_argument("--input", metavar="FILE", help="JSON, CSV or .parquet; - is stdin")
    rows.add_argument("--example", action="store_true", help="the input example (the default)")
    parser.add_argument(
        "--protocol", choices=tuple(Protocol), type=str, help="default: what the server speaks"
    )


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    _request_arguments(parser)
    side = parser.add_mutually_exclusive_group()
    side.add_argument("--version", metavar="N", type=_count, help="this side of a canary")
    side.add_argument(
        "--requests", metavar="N", type=_positive_count, help="so many times: who answers how often"
    )


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    _request_arguments(parser, several=True)
    pace = parser.add_mutually_exclusive_group(required=True)
    pace.add_argument("--rate", metavar="R", type=_positive, help="requests per second")
    pace.add_argument("--concurrency", metavar="C", type=_one_or_more, help="at a time")
    parser.add_argument("--duration", metavar="S", type=_positive, required=True, help="seconds")
    parser.add_argument("--requests", metavar="N", type=_one_or_more, help="no more than so many")
    parser.add_argument(
        "--warm-up", metavar="S", type=_seconds, default=1.0, help="not measured; default: 1"
    )
    parser.add_argument(
        "--max-errors",
        metavar="N",
        type=_count,
        help="more failures end it; default: 1000, or nothing but failures for 5 s",
    )
    parser.add_argument("--version", metavar="N", type=_count, help="this side of a canary")
    parser.add_argument(
        "--cold", action="store_true", help="let it fall asleep first, and time its waking apart"
    )
    parser.add_argument("--save", action="store_true", help="keep it for comparison")
    parser.add_argument("--label", metavar="TEXT", help="name of the kept run")
    parser.add_argument(
        "--max-p99",
        metavar="S",
        type=_promised_s,
        help="objective, seconds; none: without; default: the service's",
    )
    parser.add_argument(
        "--max-error-ratio",
        metavar="R",
        type=_promised_ratio,
        help="objective, 0 to 1; none: without; default: the service's",
    )


def _runs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", nargs="?", type=_measured, help="of this service; before --id"
    )
    parser.add_argument(
        "--id",
        metavar="N",
        nargs="+",
        action="extend",
        type=_run_number,
        help="these in full; several: each later one against the earliest",
    )
    parser.add_argument(
        "--limit", metavar="N", type=_positive_count, help="the newest; default: 20"
    )
    parser.add_argument("--out", metavar="FILE", help="all of them into a .csv, .json or .html")


def _render_arguments(parser: argparse.ArgumentParser) -> None:
    _intent_arguments(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="DIR", help="into this folder, not to stdout")
    where.add_argument("--kustomize", metavar="DIR", help="make or extend a Kustomize base")


def _watch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="MODEL", required=True)
    parser.add_argument("--alias", metavar="A", required=True)
    _named(parser)
    parser.add_argument("--interval", metavar="S", type=_positive, default=60.0)
    parser.add_argument("--once", action="store_true", help="one look, one decision")
    parser.add_argument("--timeout", metavar="S", type=_positive, default=DEFAULT_TIMEOUT_S)
    _reasoned(parser)


def _ui_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", metavar="P", type=_port, default=8501, help="default: 8501")
    parser.add_argument("--seed", action="store_true", help="the demo first, when it is empty")


VERBS: Sequence[_Verb] = (
    _Verb(
        "models", "registered models, or one's versions", "models wine", "browse", _models_arguments
    ),
    _Verb("show", "one version", "show wine@champion", "browse", _ref),
    _Verb("compare", "two versions", "compare wine/2 wine/3", "browse", _compare_arguments),
    _Verb("targets", "places to deploy to", "targets --json", "browse", _targets_arguments),
    _Verb("doctor", "every check of a target", "doctor --target local", "browse"),
    _Verb("plan", "what a deploy would do", "plan wine/3 --name wine", "operate", _plan_arguments),
    _Verb(
        "deploy", "make a version live", "deploy wine/3 --name wine", "operate", _deploy_arguments
    ),
    _Verb(
        "canary",
        "change a canary's share",
        "canary wine --percent 50",
        "operate",
        _canary_arguments,
    ),
    _Verb("promote", "give the canary everything", "promote wine", "operate", _applied_arguments),
    _Verb(
        "abort",
        "take back a canary, or a roll-out that is under way",
        "abort wine",
        "operate",
        _applied_arguments,
    ),
    _Verb(
        "rollback",
        "return to an earlier release",
        'rollback wine --reason "slow"',
        "operate",
        _rollback_arguments,
    ),
    _Verb(
        "adopt",
        "record a service that others made",
        "adopt churn --target mini",
        "operate",
        _followed_arguments,
    ),
    _Verb("status", "what is wanted, what answers", "status wine", "look", _status_arguments),
    _Verb("history", "releases, newest first", "history wine", "look", _name),
    _Verb("logs", "lines of every process or pod", "logs wine --follow", "look", _logs_arguments),
    _Verb("events", "what happened to a service", "events wine", "look", _name),
    _Verb("stop", "keep a service, end its processes", "stop wine", "operate", _applied_arguments),
    _Verb("start", "start a stopped service", "start wine", "operate", _applied_arguments),
    _Verb(
        "delete", "remove a service", "delete wine --confirm wine", "operate", _followed_arguments
    ),
    _Verb("predict", "one request", "predict wine --input rows.csv", "request", _predict_arguments),
    _Verb(
        "bench", "a load test", "bench wine --rate 50 --duration 30", "request", _bench_arguments
    ),
    _Verb(
        "runs", "stored load tests, and how they differ", "runs --id 12 15", "runs", _runs_arguments
    ),
    _Verb("publish", "make a version's package", "publish wine/3", "package", _ref),
    _Verb("image", "make a version's image", "image wine/3 --print", "package", _image_arguments),
    _Verb(
        "render",
        "manifests for GitOps",
        "render wine/3 --name wine --kustomize serving",
        "package",
        _render_arguments,
    ),
    _Verb(
        "watch",
        "deploy what an alias points to",
        "watch --model wine --alias champion --name wine",
        "watch",
        _watch_arguments,
    ),
    _Verb("demo", "train and register the demo's models", "demo", "begin"),
    _Verb("ui", "start the dashboard", "ui --port 8501", "begin", _ui_arguments),
)


def parser() -> argparse.ArgumentParser:
    """The whole command line, as `--help` and the documentation's tests see it."""
    whole = _Parser(
        prog="slipway",
        description="From an MLflow registry to KServe: browse, deploy, split traffic, roll back.",
        epilog="example:\n  slipway deploy wine@champion --name wine\n\n"
        "Exit codes: 0 done, 1 a bug, 2 usage, 3 no answer, 4 not allowed, 5 not found,\n"
        "6 changed meanwhile, 7 forbidden by a rule, 8 roll-out failed, 9 not settled in time,\n"
        "10 the endpoint failed, 130 interrupted. `slipway VERB --help` says more.",
    )
    whole.add_argument("--version", action="store_true", help="show the version and end")
    _add_globals(whole)
    verbs = whole.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    for verb in VERBS:
        sub = verbs.add_parser(
            verb.name,
            help=verb.help,
            description=f"{verb.help[:1].upper()}{verb.help[1:]}.",
            epilog=f"example:\n  slipway {verb.example}",
        )
        verb.arguments(sub)
        _add_globals(sub)
    return whole


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    args = parser().parse_args(argv)
    for name, value in _GLOBALS.items():
        if not hasattr(args, name):
            setattr(args, name, value)
    return args


# ── Running ───────────────────────────────────────────────────────────────────────────────────


def _connections(settings: Settings) -> Reach:
    from services.connect import Connections

    return Connections(settings)


def main(
    argv: Sequence[str] | None = None,
    *,
    connect: Callable[[Settings], Reach] = _connections,
    environ: Mapping[str, str] | None = None,
    stdout: TextIO | None = None,
    stdin: TextIO | None = None,
) -> int:
    """Run one command and give its exit code.

    `connect` and `environ` are what tests put in place of the real world; the streams default to
    this process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    terminal = Terminal(
        stdout or sys.stdout,
        sys.stderr,
        stdin or sys.stdin,
        as_json="--json" in words,
    )
    try:
        return _run(words, terminal, connect, environ)
    except BrokenPipeError:
        silence_broken_pipe(terminal.stdout)
        return READER_GONE


def _run(
    words: Sequence[str],
    terminal: Terminal,
    connect: Callable[[Settings], Reach],
    environ: Mapping[str, str] | None,
) -> int:
    session: Session | None = None
    log_path: Path | None = None
    try:
        args = _arguments(words, terminal)
        if args is None:
            return OK
        from services import settings as settings_module

        surroundings = settings_module.surroundings(environ)
        terminal.in_github = surroundings.in_github
        settings = settings_module.load(args.config, environ)
        session = Session(args, terminal, settings, surroundings, connect)
        from services import telemetry

        log_path = telemetry.configure(settings.state / "logs", verbose=args.verbose)
        verb = next(verb for verb in VERBS if verb.name == args.verb)
        with (
            telemetry.about(operation=verb.name, actor=surroundings.actor),
            contextlib.redirect_stdout(sys.stderr),
        ):
            return _written(terminal, _answer(verb, session))
    except SlipwayError as error:
        return _failed(terminal, error)
    except KeyboardInterrupt:
        return _failed(terminal, _interruption(session))
    except BrokenPipeError:
        raise
    except Exception:  # noqa: BLE001 — the last resort: a bug of ours is told, not shown
        return _bug(terminal, log_path, verbose="-v" in words or "--verbose" in words)


def _answer(verb: _Verb, session: Session) -> Answer:
    module = importlib.import_module(f"dashboard.commands.{verb.module}")
    answer: Callable[[Session], Answer] = getattr(module, verb.name)
    return answer(session)


def _arguments(words: Sequence[str], terminal: Terminal) -> argparse.Namespace | None:
    """The parsed arguments; None when help or the version was all that was asked for."""
    try:
        with contextlib.redirect_stdout(terminal.stdout):
            args = _parsed(words)
    except SystemExit:  # argparse ends so after --help
        return None
    if args.version is True:
        terminal.result([_version()])
        return None
    if args.verb is None:
        raise ConfigError("No verb was given.", fix="Look at `slipway --help`.")
    return args


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("slipway")
    except PackageNotFoundError:  # the container image reads the source where it lies
        import tomllib

        text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
        return str(tomllib.loads(text)["project"]["version"])


def _written(terminal: Terminal, answer: Answer) -> int:
    if answer.error is not None:
        terminal.error(answer.error)
    if terminal.as_json and not answer.streamed:
        document = answer.document
        if answer.error is not None:
            document = {**document, **views.error_document(answer.error)}
        terminal.document(document)
    elif not answer.streamed:
        terminal.result(answer.lines)
    return answer.error.exit_code if answer.error is not None else answer.exit_code


def _failed(terminal: Terminal, error: SlipwayError) -> int:
    log.info("%s: %s", error.kind, error)
    terminal.error(error)
    if terminal.as_json:
        terminal.document(views.error_document(error))
    return error.exit_code


def _interruption(session: Session | None) -> Interrupted:
    if session is None or not session.begun:
        return Interrupted("Interrupted.")
    name = session.begun
    return Interrupted(
        f"Interrupted. The operation on {name} that was begun goes on.",
        fix=f"See how it ends: `slipway status {name}`.",
    )


def _bug(terminal: Terminal, log_path: Path | None, *, verbose: bool) -> int:
    """Exit 1: one line, and the traceback where stderr says."""
    from services import telemetry

    if log_path is None:
        log_path = telemetry.configure(Path(".slipway") / "logs")
    log.error("unexpected", exc_info=True)
    if verbose:
        import traceback

        terminal.stderr.write(telemetry.redacted(traceback.format_exc()))
    what = f"Slipway met a bug of its own. The traceback is in {log_path}."
    error = SlipwayError(what, fix="Report it with that traceback.")
    return _failed(terminal, error)


def run() -> NoReturn:
    """The script `slipway`: the real streams, with stdout kept for the result alone."""
    # Libraries and child processes write to descriptor 1 as they like; a pipe must not see it.
    stdout = os.fdopen(
        os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace", buffering=1
    )
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = main(stdout=stdout)
    try:
        stdout.flush()
    except BrokenPipeError:
        silence_broken_pipe(stdout)
        code = READER_GONE
    sys.exit(code)
