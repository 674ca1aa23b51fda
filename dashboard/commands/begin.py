"""Verbs that one begins with: demo (models to try with) and ui (the dashboard)."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from dashboard import views
from dashboard.commands.session import Answer, Session, aliases_text
from dashboard.terminal import table
from services import settings
from services.errors import ConfigError, one_line
from services.settings import Settings


def demo(session: Session) -> Answer:
    """Train and register the demo's models in the embedded registry; once made, nothing changes."""
    names = _seeded(session)
    models = [model for model in session.reach.registry.models() if model.name in names]
    rows = [views.model_row(model) for model in models]
    lines = table(
        ("MODEL", "VERSIONS", "ALIASES"),
        ((row["name"], row["versions"], aliases_text(row["aliases"])) for row in rows),
    )
    return Answer({"models": rows}, lines)


def _seeded(session: Session) -> Sequence[str]:
    settings = session.settings
    if not settings.embedded:
        raise ConfigError(
            "The demo's models were not made.",
            why="They go into the embedded registry, and the configuration names another one.",
            fix="Unset MLFLOW_TRACKING_URI and `registry.tracking_uri`, then try again.",
        )
    from services.demo import seed

    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark = _demo_mark(settings)
    mark.write_text("begun\n")
    names = seed(settings.tracking_uri, settings.artifact_root, session.terminal.report())
    mark.write_text("done\n")
    return names


def _demo_mark(settings: Settings) -> Path:
    # Asking the registry whether it is empty costs some seconds of imports at every start; a file
    # says at once that the demo was made, or was begun and has to be finished.
    return settings.state / "demo"


def _seed_when_empty(session: Session) -> None:
    settings = session.settings
    mark = _demo_mark(settings)
    state = mark.read_text().strip() if mark.is_file() else ""
    if not settings.embedded or state == "done":
        return
    if not state and session.reach.registry.models():
        mark.write_text("done\n")
        return
    session.terminal.say("Making the demo's models: this takes about a minute, once.")
    _seeded(session)


def ui(session: Session) -> Answer:
    """Put the dashboard in this process's place; with `--seed` the demo first."""
    args = session.args
    if importlib.util.find_spec("streamlit") is None:
        raise ConfigError(
            "The dashboard is not installed.",
            why="It needs Streamlit; this is the command line alone.",
            fix="Install it with its extra: `uv sync --extra dashboard`, or `make setup`.",
        )
    _require_free(args.port)
    session.settings.target(args.target)
    if args.seed:
        _seed_when_empty(session)
    session.terminal.say(f"The dashboard opens on http://localhost:{args.port}")
    app = Path(__file__).parent.parent / "app.py"
    command = [sys.executable, "-m", "streamlit", "run", str(app)]
    command += ["--server.port", str(args.port), "--server.address", "localhost"]
    command += ["--server.headless", "true", "--browser.gatherUsageStats", "false"]
    handed_on = settings.environment_for(args.config, args.target)
    os.execve(sys.executable, command, handed_on)  # noqa: S606 — no shell; the dashboard takes this process's place, so that signals reach it


def _require_free(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} cannot be used.",
                why=f"{one_line(error.strerror)}.",
                fix="Choose another one: `make run PORT=8502`, or `slipway ui --port 8502`.",
            ) from error
