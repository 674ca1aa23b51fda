"""The lines of a model's requirements.txt, held to names with versions. Pure.

What comes from a model's files is read here as requirements and nothing else: installers only see
lines that were written anew from it, never one of the model's own. Callers: local/environments.py,
images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from packaging.requirements import InvalidRequirement, Requirement

from services.errors import NotDeployable, one_line


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
