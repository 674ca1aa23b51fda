"""The terminal: where results, words, questions and progress go. Draws; decides nothing.

Results go to stdout and everything else to stderr, so that a pipe sees nothing but the result. With
`as_json` stdout gets exactly one document. In GitHub Actions errors become annotations, and foreign
text cannot speak to the runner.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dashboard import views
from services.domain import Progress, Step, StepState
from services.errors import SignatureMismatch, SlipwayError, one_line
from services.ports import Report

log = logging.getLogger("slipway.cli")

_LINE = 2_000
"""Longest line of words: a log line may be long, but not endless."""

_MARKS = {
    StepState.DONE: "✓",
    StepState.FAILED: "✗",
    StepState.SKIPPED: "–",
    StepState.RUNNING: "…",
    StepState.PENDING: " ",
}


class Terminal:
    """The three streams of one run of a command."""

    def __init__(
        self,
        stdout: TextIO,
        stderr: TextIO,
        stdin: TextIO | None,
        *,
        as_json: bool = False,
        in_github: bool = False,
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.stdin = stdin
        self.as_json = as_json
        self.in_github = in_github
        self.quiet = False
        """True sends words to the log file alone: stdout is being read line by line."""

    @property
    def interactive(self) -> bool:
        """True when somebody sits there who can be asked."""
        return self.stdin is not None and self.stdin.isatty() and self.stderr.isatty()

    # ── Results ───────────────────────────────────────────────────────────────────────────────

    def document(self, document: Any) -> None:  # noqa: ANN401 — any row of views
        """Write the one JSON document."""
        text = views.document_text(document)
        if self.in_github:
            # The runner looks for "##[" anywhere in a line; in JSON the same text can be spelt so
            # that it does not see it (actions/runner, ActionCommand.TryParse).
            text = text.replace("##[", "\\u0023#[")
        self.stdout.write(f"{text}\n")
        self.stdout.flush()

    def result(self, lines: Iterable[str]) -> None:
        """Write the lines of a result for people, each as it comes."""
        for line in lines:
            self.stdout.write(f"{self._harmless(line)}\n")
            self.stdout.flush()

    # ── Words ─────────────────────────────────────────────────────────────────────────────────

    def say(self, line: str = "") -> None:
        """A line for the reader, on stderr."""
        if self.quiet:
            log.info("%s", self._harmless(line))
            return
        self.stderr.write(f"{self._harmless(line)}\n")
        self.stderr.flush()

    def warn(self, line: str) -> None:
        """A warning on stderr, and as an annotation in GitHub Actions."""
        self.say(f"Warning: {line}")
        if self.in_github:
            self._annotate("warning", "Slipway", line)

    def error(self, error: SlipwayError) -> None:
        """What, why and fix on lines of their own; an annotation in GitHub Actions."""
        for part in (error.what, error.why):
            if part:
                self.say(one_line(part, _LINE))
        if isinstance(error, SignatureMismatch) and len(error.problems) > 1:
            for problem in error.problems:
                self.say(f"  {one_line(problem['told'], _LINE)}")
        if error.fix:
            self.say(one_line(error.fix, _LINE))
        if self.in_github:
            self._annotate("error", error.kind, str(error))

    def _annotate(self, level: str, title: str, text: str) -> None:
        self.stderr.write(f"::{level} title={_property(title)}::{_data(text)}\n")
        self.stderr.flush()

    def _harmless(self, line: str) -> str:
        """One line that neither the terminal nor GitHub's runner takes for a command."""
        text = "".join(c if c.isprintable() or c == "\t" else " " for c in line)
        if self.in_github:
            text = text.replace("##[", "## [")
            if text.lstrip().startswith("::"):
                text = f"| {text}"
        return text

    # ── Questions ─────────────────────────────────────────────────────────────────────────────

    def ask(self, question: str) -> str:
        """The answer to a question; "" when there is none."""
        if self.stdin is None:
            return ""
        self.stderr.write(f"{self._harmless(question)} ")
        self.stderr.flush()
        return self.stdin.readline().strip()

    # ── Progress ──────────────────────────────────────────────────────────────────────────────

    def report(self) -> Report:
        """A Report that writes a line for each new step of a long work."""
        last = ""
        shown_at = 0.0

        def show(line: str, ratio: float | None = None) -> None:
            nonlocal last, shown_at
            now = time.monotonic()
            # Bytes tick often: the same words again are worth a line only now and then.
            if line == last and now - shown_at < 2:
                return
            last, shown_at = line, now
            # Rounded down: what is at 100 % is done.
            part = "" if ratio is None else f" ({math.floor(min(ratio, 1) * 100 + 1e-9)}%)"
            self.say(f"  {one_line(line)}{part}")

        return show

    @contextmanager
    def following(self) -> Iterator[Callable[[Progress], None]]:
        """Draw a roll-out as it goes: steps with their times; a live line where there is one."""
        shown: dict[str, StepState] = {}
        message = ""

        def show(progress: Progress) -> None:
            nonlocal message
            for step in progress.steps:
                over = step.state in (StepState.DONE, StepState.FAILED, StepState.SKIPPED)
                if over and shown.get(step.name) is not step.state:
                    shown[step.name] = step.state
                    self.say(step_line(step))
            now = running_text(progress)
            if now and now != message:
                message = now
                update(now)

        if not self.stderr.isatty():

            def update(text: str) -> None:
                self.say(f"  … {one_line(text, 512)}")

            yield show
            return
        from rich.console import Console
        from rich.text import Text

        console = Console(file=self.stderr, highlight=False)
        with console.status(Text("waiting")) as status:

            def update(text: str) -> None:
                status.update(Text(one_line(text)))

            yield show


def step_line(step: Step) -> str:
    """A step that is over: mark, name, time, and what it says."""
    took = views.step_text(step.took_s)
    detail = one_line(step.detail)
    return f"  {_MARKS[step.state]} {step.name:<22} {took:>10}  {detail}".rstrip()


def running_text(progress: Progress) -> str:
    """What is being waited for, in words."""
    running = next((step for step in progress.steps if step.state is StepState.RUNNING), None)
    if running is None:
        return progress.message
    return f"{running.name}: {running.detail or progress.message}".rstrip(": ")


# ── Tables ────────────────────────────────────────────────────────────────────────────────────


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Columns in line, each as wide as its widest cell; foreign text on one line."""
    cells = [list(headers), *([_cell(value) for value in row] for row in rows)]
    widths = [max(_width(row[place]) for row in cells) for place in range(len(headers))]
    for row in cells:
        yield "  ".join(
            text + " " * (width - _width(text)) for text, width in zip(row, widths, strict=True)
        ).rstrip()


def pairs(values: Mapping[str, object]) -> Iterator[str]:
    """Names and values below each other; what is empty is left out."""
    shown = {
        name: one_line(value, _LINE) if isinstance(value, str) else _cell(value)
        for name, value in values.items()
        if value not in (None, "", (), [])
    }
    width = max((len(name) for name in shown), default=0)
    for name, text in shown.items():
        yield f"{name:<{width}}  {text}"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return one_line(value, 200)


def _width(text: str) -> int:
    """Columns that a terminal gives the text: wide letters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


# ── GitHub Actions ────────────────────────────────────────────────────────────────────────────

# actions/toolkit, packages/core/src/command.ts: escapeData, escapeProperty.


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def write_outputs(path: Path, values: Mapping[str, object]) -> None:
    """Append to $GITHUB_OUTPUT; hostile values can neither end their block nor begin another."""
    with path.open("a", encoding="utf-8") as file:
        for name, value in values.items():
            text = "" if value is None else one_line(value, _LINE)
            mark = f"slipway_{secrets.token_hex(16)}"
            file.write(f"{name}<<{mark}\n{text}\n{mark}\n")


def write_summary(path: Path, title: str, values: Mapping[str, object]) -> None:
    """Append a table to $GITHUB_STEP_SUMMARY; hostile values are shown, not rendered."""
    lines = [f"### {literal(title)}", "", "| | |", "|---|---|"]
    lines += [
        f"| {literal(name)} | {literal(value)} |"
        for name, value in values.items()
        if value not in (None, "")
    ]
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n\n")


def literal(value: object) -> str:
    """Text that Markdown and HTML show as it is: every sign that could mean something as entity."""
    text = one_line(value, _LINE)
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text)


def silence_broken_pipe(stdout: TextIO) -> None:
    """Send what is left for a reader that has gone to nowhere, so that the exit stays quiet."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
    except (OSError, ValueError):  # a stream without a file behind it
        return
