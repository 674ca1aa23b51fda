"""Logs of pods: read to their end, or followed while they are written. Bounded in bytes.

Read against Kubernetes 1.34. Called by kserve.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import urllib3

from services import kubeobject
from services.cluster import Cluster
from services.domain import Json, LogLine
from services.errors import Denied, SlipwayError, Unreachable, one_line
from services.kubepaths import Paths

MAX_LOG_BYTES = 1_000_000
"""Of one container, read to its end."""
MAX_LOG_STREAMS = 40
"""Containers that are read for one service."""
_LONGEST_LINE = 64 * 1024
"""Of a log that is followed: a longer one is told in pieces, so that none grows for ever."""

# kubelet v1.34, kuberuntime_manager.go, GetContainerLogs: it answers 200 with these words in place
# of the log when the runtime has removed the instance.
_LOG_IS_GONE = "unable to retrieve container logs for "


class PodLogs:
    """The logs of one namespace's pods."""

    def __init__(self, cluster: Cluster, paths: Paths) -> None:
        """Nothing is read yet."""
        self._cluster = cluster
        self._paths = paths

    def lines(self, pod: str, container: str, *, previous: bool, tail: int) -> list[LogLine]:
        """The last lines of one container; [] where it has no log. Denied, Unreachable."""
        response = self._cluster.raw(
            "GET",
            f"{self._paths.pod(pod)}/log",
            doing=f"read the log of {pod}",
            query={
                "container": container,
                "tailLines": tail,
                "limitBytes": MAX_LOG_BYTES,
                "timestamps": "true",
                "previous": "true" if previous else "false",
            },
        )
        try:
            if response.status in {401, 403}:
                raise self._cluster.refusal(f"read the log of {pod}", response)
            # 400 and 404: the container has not started, or had no earlier instance. No log.
            text = response.read() if response.status == 200 else b""
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(
                f"The log of {pod} could not be read to its end.", why=one_line(error)
            ) from error
        finally:
            response.release_conn()
        source = f"{pod}/{container}"
        lines = text.decode("utf-8", "replace").splitlines()
        return [_log_line(source, line) for line in lines if not line.startswith(_LOG_IS_GONE)]

    def followed(self, streams: Sequence[tuple[str, str]], tail: int) -> Iterator[LogLine]:
        """Lines of several (pod, container) as they come, until all have ended. Denied."""
        lines: queue.Queue[LogLine | Denied | None] = queue.Queue(maxsize=1000)
        stopped = threading.Event()

        def pump(pod: str, container: str) -> None:
            with suppress(SlipwayError, urllib3.exceptions.HTTPError, OSError):
                response = self._cluster.raw(
                    "GET",
                    f"{self._paths.pod(pod)}/log",
                    doing=f"follow the log of {pod}",
                    query={
                        "container": container,
                        "tailLines": tail,
                        "timestamps": "true",
                        "follow": "true",
                    },
                    read_timeout_s=3600,
                )
                if response.status in {401, 403}:
                    lines.put(self._cluster.refusal(f"follow the log of {pod}", response))
                    return
                for line in _whole_lines(response.stream(4096)):
                    if stopped.is_set():
                        response.close()
                        return
                    text = line.decode("utf-8", "replace")
                    lines.put(_log_line(f"{pod}/{container}", text), timeout=60)
            lines.put(None)

        for pod, container in streams:
            threading.Thread(target=pump, args=(pod, container), daemon=True).start()
        left = len(streams)
        try:
            while left:
                line = lines.get()
                if isinstance(line, Denied):
                    raise line
                if line is None:
                    left -= 1
                else:
                    yield line
        finally:
            stopped.set()


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of what comes in chunks, each once it is whole; one that is too long in pieces."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            whole, rest = [*whole, rest], b""
        yield from whole


def containers_of(pod: Json, chosen: str | None) -> list[str]:
    """Names of a pod's containers: `chosen` if it is there; "" = all; None = those that tell."""
    spec = pod.get("spec") or {}
    every = [
        str(container["name"])
        for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    ]
    if chosen == "":
        return every
    wanted = (kubeobject.INITIALIZER, kubeobject.CONTAINER) if chosen is None else (chosen,)
    return [name for name in every if name in wanted]


def _log_line(source: str, line: str) -> LogLine:
    stamp, _, text = line.partition(" ")
    when = kubeobject.time_of(stamp[:26] + "Z" if len(stamp) > 27 else stamp)
    return LogLine(when, source, one_line(text if when else line, 4096))
