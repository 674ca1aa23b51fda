"""Reads that never hold a page up: a time budget, the last good answer with its age, a breaker.

A read runs in a thread of its own. A page waits for it as long as its budget lasts and then goes on
with what was read before; the answer is picked up when it comes. A source that does not answer is
not waited for again until it did. Lists survive a restart in small files, so that a dashboard which
starts while the registry is down still shows what there was, and says of when that is.

Knows no Streamlit; `wiring` is the only caller.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from dashboard.worker import told_error
from services import records
from services.errors import ConfigError, SlipwayError, Unreachable

BUDGET_S = 1.4
"""What one script run waits for all of its reads together: pages stand within 2 s."""
PATIENCE_S = 8.0
"""A read that runs for so long counts as unanswered; before, it is only late: the first read of a
registry also imports its client, which takes seconds."""
RETRY_S = 5.0
"""For so long a failed read is not tried again, unless somebody asks."""
_SAVE_EVERY_S = 20.0
"""A list that changes all the time is written to its file at most this often."""
_ENTRIES_KEPT = 2_000
"""Reads remembered; a page has about a dozen."""

T = TypeVar("T")
Key = tuple[Hashable, ...]
"""What was read; the first part names the source that answers it."""


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """What is known of one read: the last good answer, of when it is, and what is wrong now."""

    value: T | None = None
    at: datetime | None = None
    """When `value` was read; None when it never was."""
    error: SlipwayError | None = None
    """Why there is no newer answer; None when there is, or when it is still awaited."""
    waiting: bool = False
    """True while an answer is awaited."""
    late: bool = False
    """True when it is awaited for longer than a page waits."""

    @property
    def stale(self) -> bool:
        """True when the value is shown for want of a newer one."""
        return self.value is not None and self.error is not None


@dataclass(slots=True)
class _Entry:
    value: Any = None
    at: datetime | None = None
    read_s: float = -1e9
    error: SlipwayError | None = None
    error_s: float = -1e9
    future: Future[Any] | None = None
    begun_s: float = -1e9
    doubted: bool = False
    """True when something was written while the read was under way: its answer may be old."""
    saved_s: float = -1e9


@dataclass
class Reads:
    """All reads of one dashboard. Thread-safe."""

    folder: Path | None = None
    """Where lists are kept over a restart; None keeps none."""
    threads: int = 12
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _entries: dict[Key, _Entry] = field(default_factory=dict)
    answers: int = 0
    """How many reads have ended: a page that awaits one draws again when this moves."""
    _silent: set[Hashable] = field(default_factory=set)
    """Sources that did not answer in time: not waited for until they do."""

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="slipway-read")
        self._here = threading.local()

    def begin_run(self, budget_s: float = BUDGET_S) -> None:
        """Start the time budget of the script run in this thread."""
        self._here.until = time.monotonic() + budget_s

    def look(
        self,
        key: Key,
        read: Callable[[], T],
        *,
        fresh_s: float,
        wait: bool = True,
        keep: type[T] | None = None,
    ) -> Look[T]:
        """The answer of `read`, at most `fresh_s` old if it comes within the budget.

        `wait=False` takes what is there. `keep` is the answer's type when it is to survive a
        restart.
        """
        with self._lock:
            entry = self._entry(key, keep)
            now = time.monotonic()
            due = now - entry.read_s > fresh_s and now - entry.error_s > RETRY_S
            if entry.future is None and due:
                entry.future = self._pool.submit(read)
                entry.begun_s = now
                entry.future.add_done_callback(lambda ended: self._take(key, ended, keep))
            future = entry.future
            silent = key[0] in self._silent
        if future is not None and wait and not silent:
            self._await(key, future)
            if future.done():  # its callback may run a moment later than those that wait
                self._take(key, future, keep)
        with self._lock:
            error, waiting = entry.error, entry.future is not None
            late = waiting and key[0] in self._silent
            if late and error is None and time.monotonic() - entry.begun_s > PATIENCE_S:
                error = _unanswered(key)
            return Look(cast("T | None", entry.value), entry.at, error, waiting, late)

    def forget(self, source: Hashable | None = None) -> None:
        """Let the next look at a source (or at all) read anew; last answers stay meanwhile."""
        with self._lock:
            for key, entry in self._entries.items():
                if source is None or key[0] == source:
                    entry.read_s = entry.error_s = -1e9
                    entry.doubted = entry.future is not None
            if source is None:
                self._silent.clear()
            else:
                self._silent.discard(source)

    def answered(self, source: Hashable) -> bool:
        """True when some read of this source gave an answer and the newest one did not fail to."""
        with self._lock:
            return source not in self._silent and any(
                key[0] == source and entry.at is not None and entry.read_s > 0
                for key, entry in self._entries.items()
            )

    def drop(self, *prefix: Hashable) -> None:
        """Forget the answers of every key that begins so, altogether."""
        with self._lock:
            for key in [key for key in self._entries if key[: len(prefix)] == prefix]:
                del self._entries[key]

    def close(self) -> None:
        """Take no more reads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _entry(self, key: Key, keep: type[Any] | None) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= _ENTRIES_KEPT:
                idle = [k for k, e in self._entries.items() if e.future is None]
                for old in idle[: _ENTRIES_KEPT // 4]:
                    del self._entries[old]
            entry = self._entries[key] = _Entry()
            if keep is not None:
                self._load(key, entry, keep)
        return entry

    def _await(self, key: Key, future: Future[Any]) -> None:
        left_s = getattr(self._here, "until", time.monotonic() + BUDGET_S) - time.monotonic()
        if left_s <= 0:
            return
        done, _ = wait([future], left_s)
        if not done:
            with self._lock:
                self._silent.add(key[0])

    def _take(self, key: Key, future: Future[Any], keep: type[Any] | None) -> None:
        if future.cancelled():
            return
        error = future.exception()
        told = told_error(error) if error is not None else None
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.future is not future:
                return  # taken already, or dropped meanwhile
            self.answers += 1
            entry.future = None
            doubted, entry.doubted = entry.doubted, False
            now = time.monotonic()
            if told is not None:
                entry.error, entry.error_s = told, now
                if isinstance(told, Unreachable):
                    self._silent.add(key[0])
                return
            entry.value, entry.at = future.result(), datetime.now(UTC)
            entry.read_s, entry.error = -1e9 if doubted else now, None
            self._silent.discard(key[0])
            save = keep is not None and now - entry.saved_s > _SAVE_EVERY_S
            if save:
                entry.saved_s = now
        if save:
            self._save(key, entry)

    def _file(self, key: Key) -> Path | None:
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:24]
        return self.folder / f"{name}.json" if self.folder else None

    def _save(self, key: Key, entry: _Entry) -> None:
        file = self._file(key)
        if file is None or entry.at is None:
            return
        # A disk that is full costs the list after a restart, nothing else.
        with suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_text(f"{entry.at.isoformat()}\n{records.dump(entry.value)}", "utf-8")
            part.replace(file)

    def _load(self, key: Key, entry: _Entry, keep: type[Any]) -> None:
        file = self._file(key)
        if file is None:
            return
        # What another version wrote, or half a file, is as good as none.
        with suppress(OSError, ConfigError, ValueError):
            when, text = file.read_text("utf-8").split("\n", 1)
            entry.value, entry.at = records.load(keep, text), datetime.fromisoformat(when)


def _unanswered(key: Key) -> SlipwayError:
    return Unreachable(
        f"The {key[0]} has not answered yet.",
        why=f"It takes longer than {PATIENCE_S:.0f} s; it is still being waited for.",
        fix="Look at the Health page.",
    )
