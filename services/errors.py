"""The one exception tree: everything that an operator can be told, and the exit code of each.

::

    SlipwayError(what, why="", fix="")   exit
    ├── ConfigError          a setting, kubeconfig or argument is missing or contradictory     2
    ├── Unreachable          registry, bucket, cluster or endpoint did not answer              3
    ├── Denied               it answered: you may not, or your credentials expired             4
    ├── NotFound             no such model, version, alias, service, release, target           5
    ├── Conflict             it changed since you looked, or another operation is open         6
    ├── NotDeployable        a rule forbids this plan                                          7
    │   ├── NothingToRollBackTo
    │   └── NotOffered       this target cannot do that (yet)
    ├── RolloutFailed        it failed; says whether the earlier release still serves          8
    ├── RolloutTimeout       not settled in time; it may still settle                          9
    └── InferenceFailed      the endpoint answered with an error                              10
        ├── SignatureMismatch    not sent: the rows do not fit the signature
        ├── ObjectiveMissed      a load test missed the SLO that it was given
        └── ObjectiveNotJudged   a load test could not tell whether it was met

A class exists only where the operator can do something different. Foreign errors are translated at
one door per adapter, always with ``raise … from``. Anything that is no SlipwayError is a bug of
ours: exit 1, one line on the screen, the traceback in the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_LINE_LIMIT = 256


def one_line(text: object, limit: int = _LINE_LIMIT) -> str:
    """Foreign text as one printable line of at most `limit` characters.

    Control characters (newlines, terminal escapes, NUL, bidirectional overrides) become spaces, so
    that a server's answer can neither forge a log line nor reorder what is read.
    """
    raw = str(text)[: limit * 4]
    cleaned = "".join(c if c.isprintable() else " " for c in raw)
    squeezed = " ".join(cleaned.split())
    return squeezed if len(squeezed) <= limit else squeezed[: limit - 1] + "…"


class SlipwayError(Exception):
    """Something that the operator can act on, in three parts.

    `what` happened, with the names that the operator typed; `why`, the fact as observed; `fix`, an
    imperative with the exact command, setting or page. Full sentences. Never a token, a header or a
    whole response body.
    """

    exit_code = 1
    said: bytes = b""
    """What a server answered, its beginning: for a page that shows it as code, and for no log."""
    met: str = ""
    """Who answered so, which way and how soon, as a sentence: for who asked, and for no record."""

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    @property
    def kind(self) -> str:
        """The class's name: the `kind` of the command line's JSON error."""
        return type(self).__name__

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.fix) if part)

    def __reduce__(self) -> tuple[type[SlipwayError], tuple[object, ...]]:
        return (type(self), (self.what, self.why, self.fix))


class ConfigError(SlipwayError):
    """A setting, kubeconfig or argument is missing or contradictory."""

    exit_code = 2


class Unreachable(SlipwayError):
    """Registry, bucket, cluster or endpoint did not answer."""

    exit_code = 3


class Denied(SlipwayError):
    """It answered: you may not, or your credentials expired."""

    exit_code = 4


class NotFound(SlipwayError):
    """There is no such model, version, alias, service, release or target."""

    exit_code = 5


class Conflict(SlipwayError):
    """It changed since you looked, or another operation is open. Nothing was changed."""

    exit_code = 6


class NotDeployable(SlipwayError):
    """A rule forbids this plan. Nothing was changed."""

    exit_code = 7


class NothingToRollBackTo(NotDeployable):
    """The service has no release that a roll-back could return to."""


class NotOffered(NotDeployable):
    """This target cannot do that, or not yet. Nothing was changed."""


class RolloutFailed(SlipwayError):
    """The roll-out failed; the message says whether the earlier release still serves."""

    exit_code = 8


class RolloutTimeout(SlipwayError):
    """The roll-out did not settle in time; it may still settle."""

    exit_code = 9


class InferenceFailed(SlipwayError):
    """The endpoint answered with an error, or with something that is no prediction."""

    exit_code = 10


class SignatureMismatch(InferenceFailed):
    """The rows do not fit the signature. The request was not sent.

    `problems`: each value that does not fit, as plain data: `column` ("" when it concerns the
    whole), `row` (1-based; None for every row), `part`, `why`, `fix`, and `told`, all in one line.
    """

    def __init__(
        self,
        what: str,
        why: str = "",
        fix: str = "",
        problems: Sequence[Mapping[str, str | int | None]] = (),
    ) -> None:
        super().__init__(what, why, fix)
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[SlipwayError], tuple[object, ...]]:
        return (type(self), (self.what, self.why, self.fix, self.problems))


class ObjectiveMissed(InferenceFailed):
    """A load test missed the objective that it was given."""


class ObjectiveNotJudged(InferenceFailed):
    """A load test was too short, or its client too busy, to tell whether its objective was met."""
