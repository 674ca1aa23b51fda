"""Cold starts, measured on purpose: wait until a service sleeps, wake it with one request, time it.

Knative scales a service without requests to nothing after a while (its stable window, a minute
unless set otherwise, and a grace period); the next request starts a pod and waits for it. That time
is a figure of its own and never part of a load test's percentiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from services.domain import Endpoint, InferRequest, Mode, Prediction, Service
from services.errors import NotOffered, RolloutTimeout
from services.ports import Ops, Predictor

ASLEEP_WITHIN_S = 300.0
"""Knative's defaults make it 90 s to two minutes; a longer window is somebody's decision."""
ANSWER_WITHIN_S = 180.0
"""A pod that has to be placed, and to load its model, needs so long at the most."""
WARM_ANSWER_WITHIN_S = 30.0
_EVERY_S = 1.0


def answer_within_s(*, asleep: bool) -> float:
    """How long an answer is waited for: a service that sleeps has to start a pod first."""
    return ANSWER_WITHIN_S if asleep else WARM_ANSWER_WITHIN_S


def fall_asleep(
    ops: Ops,
    service: Service,
    *,
    timeout_s: float = ASLEEP_WITHIN_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[float]:
    """Wait until nothing of `service` runs, giving the seconds waited at every look; sends nothing.

    NotOffered for a service that never sleeps; RolloutTimeout when it is still awake at the end.
    """
    _refuse_sleepless(service)
    began = clock()
    while True:
        seen = ops.serving.service(service.name)
        # A pod on its way out may answer once more: its time would pass for a cold start.
        if seen is not None and seen.asleep and not seen.leaving:
            return
        waited_s = clock() - began
        if waited_s >= timeout_s:
            raise RolloutTimeout(
                f"{service.name} did not fall asleep within {timeout_s:.0f} s. Nothing was sent.",
                why="Somebody sends it requests, or the cluster waits longer before it sleeps.",
                fix="Try again when nobody uses it, or measure it awake.",
            )
        yield waited_s
        sleep(_EVERY_S)


def can_sleep(service: Service) -> bool:
    """True for a service of which nothing runs after a while without requests."""
    return service.mode is Mode.KNATIVE and not _kept_running(service)


def _kept_running(service: Service) -> int:
    # KServe v0.15 to v0.20, pkg/constants: without a number it keeps one.
    asked = service.intent.scale.min_replicas if service.intent else 0
    return 1 if asked is None else asked


def _refuse_sleepless(service: Service) -> None:
    if service.mode is not Mode.KNATIVE:
        raise NotOffered(
            f"{service.name} has no cold start to measure. Nothing was sent.",
            why=f"Its deployment mode is {service.mode}; only Knative scales to zero.",
            fix="Leave out `--cold`.",
        )
    kept = _kept_running(service)
    if kept:
        raise NotOffered(
            f"{service.name} has no cold start to measure. Nothing was sent.",
            why=f"It keeps {kept} running however quiet it is.",
            fix=f"Deploy it with `--min-replicas 0 --name {service.name}`, or leave out `--cold`.",
        )


def wake(predictor: Predictor, endpoint: Endpoint, request: InferRequest) -> Prediction:
    """Send the first request to a service that sleeps; its time is the cold start."""
    return predictor.infer(endpoint, request, timeout_s=ANSWER_WITHIN_S)
