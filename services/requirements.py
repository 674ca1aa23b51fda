"""The lines of a model's requirements.txt, held to names with versions. Pure.

What comes from a model's files is read here as requirements and nothing else: installers only see
lines that were written anew from it, never one of the model's own. Callers: local/environments.py,
images.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from services.errors import NotDeployable, one_line

# MLServer 1.7.1's own metadata: Requires-Python >=3.9,<3.13.
_PYTHONS = ("3.9", "3.10", "3.11", "3.12")


def plain(lines: Iterable[str]) -> tuple[Requirement, ...]:
    """The requirements of a file's lines, comments left out. NotDeployable for any other line."""
    return tuple(map(_requirement, filter(None, map(_without_comment, lines))))


def _without_comment(line: str) -> str:
    # pip's rule: a # starts a comment at the line's start or after white space.
    return re.sub(r"(^|\s)#.*", "", line).strip()


def _requirement(line: str) -> Requirement:
    """One line of a requirements file, if it is a name with versions. NotDeployable."""
    shown = one_line(line, 80)
    if line.startswith("-"):
        raise NotDeployable(
            "The model's requirements cannot be used. Nothing was changed.",
            why=f"`{shown}` is an option for the installer, and a model's files may not choose "
            "where packages come from.",
            fix="Log the model again with plain requirements (`pip_requirements=['name==1.0', …]`);"
            " set an index of your own in uv's configuration.",
        )
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        raise NotDeployable(
            "The model's requirements cannot be used. Nothing was changed.",
            why=f"`{shown}` is no package name with versions.",
            fix="Log the model again with plain requirements (`pip_requirements=['name==1.0', …]`)"
            "; pass your own modules as `code_paths`.",
        ) from error
    if requirement.url:
        raise NotDeployable(
            "The model's requirements cannot be used. Nothing was changed.",
            why=f"`{shown}` is fetched from an address of the model's own choice.",
            fix="Publish the package on your index and require it by name and version.",
        )
    return requirement


def server_python(version: str | None) -> str:
    """Major and minor of the Python that logged the model, "3.11". NotDeployable.

    None (nobody knows) is Slipway's own.
    """
    if version is None:
        return minor(sys.version.split()[0])
    try:
        python = minor(version)
    except InvalidVersion as error:
        raise NotDeployable(
            "The model's Python version cannot be used. Nothing was changed.",
            why=f"{one_line(version, 40)!r} is no version.",
            fix="Log the model again; MLmodel says `python_version: 3.11.7` or the like.",
        ) from error
    if python not in _PYTHONS:
        raise NotDeployable(
            f"The model was logged with Python {python}, which the model server cannot run on. "
            "Nothing was changed.",
            why=f"MLServer runs on Python {_PYTHONS[0]} to {_PYTHONS[-1]}.",
            fix=f"Log the model again with Python {_PYTHONS[-1]}.",
        )
    return python


def minor(version: str) -> str:
    """Major and minor of a version: "3.11"."""
    parsed = Version(version)
    return f"{parsed.major}.{parsed.minor}"
