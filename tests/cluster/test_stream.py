"""A steady stream of requests through deploy, failed deploy and rollback loses none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import urllib3

from services import planning, rollout
from services.domain import Mode, Outcome, Package, PackageKind, WayIn
from tests import waiting
from tests.cluster.conftest import FEATURES, Voyage, intent_of

Begin = Callable[[Mode], Voyage]
RATE = 20


@contextmanager
def stream(journey: Voyage) -> Iterator[list[tuple[float, str]]]:
    """Send RATE requests a second to the service's own address; gives the failures as (s, what)."""
    endpoint = waiting.seen(
        lambda: journey.ops.serving.endpoint(journey.service),
        lambda way: way.via is WayIn.INGRESS,
        within_s=20,
        every_s=1,
    )
    if endpoint.via is not WayIn.INGRESS:
        pytest.skip("the cluster has no ingress that is reached from here")
    assert endpoint.host is not None
    url = f"{endpoint.base_url}/v2/models/{journey.service}/infer"
    inputs = [{"name": name, "shape": [1], "datatype": "FP64", "data": [1.0]} for name in FEATURES]
    failures: list[tuple[float, str]] = []
    stopped = threading.Event()
    began = time.monotonic()
    http = urllib3.PoolManager(maxsize=4, retries=False, timeout=10)

    def send() -> None:
        at = time.monotonic() - began
        try:
            response = http.request(
                "POST", url, json={"inputs": inputs}, headers={"Host": str(endpoint.host)}
            )
        except urllib3.exceptions.HTTPError as error:
            failures.append((at, type(error).__name__))
            return
        if response.status != 200:
            failures.append((at, f"{response.status} {response.data[:80]!r}"))

    def pace(offset: float) -> None:
        due = time.monotonic() + offset
        while not stopped.is_set():
            send()
            due += 4 / RATE
            stopped.wait(max(0.0, due - time.monotonic()))

    senders = [threading.Thread(target=pace, args=(n / RATE,), daemon=True) for n in range(4)]
    for sender in senders:
        sender.start()
    yield failures
    stopped.set()
    for sender in senders:
        sender.join(15)


@pytest.mark.parametrize("mode", [Mode.STANDARD, Mode.KNATIVE])
def test_a_stream_through_deploy_failure_and_rollback_loses_none(voyage: Begin, mode: Mode) -> None:
    journey = voyage(mode)
    journey.deploy(1)
    with stream(journey) as failures:
        time.sleep(2)
        assert journey.deploy(2).outcome is Outcome.VERIFIED
        broken = replace(
            intent_of(journey.current),
            package=Package(PackageKind.GCS, "gs://nobody-has-this-bucket/nothing"),
        )
        plan = planning.plan_deploy(
            journey.current, broken, target="test", namespace=journey.ops.namespace
        )
        rollout.apply(plan, journey.ops, actor="tester")
        journey.failure(90)
        assert journey.plan(planning.plan_rollback).outcome is Outcome.VERIFIED
        time.sleep(8)
    assert failures == []
