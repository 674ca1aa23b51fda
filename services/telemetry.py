"""What Slipway writes about itself: one JSON object a line, in a rotating file, without secrets.

Knows nothing of targets or registries. `configure` is called once by each front door; everybody
else uses the standard library's `logging`. Metrics come later.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

FILE_NAME = "slipway.log"

FILE_BYTES = 5 * 1024 * 1024
"""Size at which a new file is begun; two older ones are kept."""

_TEXT_LIMIT = 32_768
"""Longest message or traceback kept: a server's answer must not fill the disk."""

_about: ContextVar[dict[str, str] | None] = ContextVar("slipway_about", default=None)

# Each pattern keeps what names the secret (group 1) and drops the secret.
_SECRETS = (
    re.compile(r"(?i)((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic)\s+)?\S+"),
    re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{8,}"),
    re.compile(
        r"(?i)([\w-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key)[\w-]*"
        r"[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}]+"
    ),
    re.compile(r"(://[^/\s:@]*:)[^@\s/]+(?=@)"),
    re.compile(r"()\bya29\.[\w-]+"),  # Google's access tokens
    re.compile(r"()\bgh[opsu]_\w{20,}"),  # GitHub's tokens
    re.compile(r"()\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # JSON Web Tokens
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]*?(?=-----END|$)"),
)


def redacted(text: str) -> str:
    """`text` with passwords, tokens and keys replaced by `***`."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1***", text)
    return text


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Add fields (operation, actor, target, …) to every log line written inside."""
    token = _about.set({**(_about.get() or {}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, redacted and bounded."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()[:_TEXT_LIMIT]),
            **(_about.get() or {}),
        }
        if record.exc_info:
            # The end of a traceback says what happened: keep that when it is too long.
            line["traceback"] = redacted(self.formatException(record.exc_info)[-_TEXT_LIMIT:])
        return json.dumps(line)


def configure(folder: Path, *, verbose: bool = False, shown: bool = False) -> Path:
    """Send log records to `folder`/slipway.log, and gives its path; `shown` also to stderr.

    `verbose`: shown, and more of them.

    The file is made with its first line. A folder that cannot be written is replaced by a private
    temporary one: a read-only disk must not hide the traceback.
    """
    path = _writable(folder) / FILE_NAME
    file = RotatingFileHandler(
        path, maxBytes=FILE_BYTES, backupCount=2, encoding="utf-8", delay=True
    )
    file.setFormatter(JsonLines())
    handlers: list[logging.Handler] = [file]
    if verbose or shown:
        to_stderr = logging.StreamHandler(sys.stderr)
        to_stderr.setFormatter(_Plain("%(levelname)s %(name)s: %(message)s"))
        handlers.append(to_stderr)
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if getattr(handler, "slipways", False)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.slipways = True  # type: ignore[attr-defined]  # marks ours among pytest's, Streamlit's
        root.addHandler(handler)
    logging.getLogger("slipway").setLevel(logging.DEBUG if verbose else logging.INFO)
    return path


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record)[:_TEXT_LIMIT])


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="slipway-log-"))
