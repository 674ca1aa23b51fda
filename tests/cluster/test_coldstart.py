"""A real service falls asleep, and what waking it takes is told apart from a warm answer."""

from __future__ import annotations

from collections.abc import Callable

from services import bench, coldstart
from services.domain import Mode, Scale
from tests.cluster.conftest import SIGNATURE, Voyage


def test_a_cold_start_is_waited_for_and_timed_apart(
    voyage: Callable[[Mode], Voyage],
) -> None:
    journey = voyage(Mode.KNATIVE)
    journey.deploy(1, scale=Scale(min_replicas=0))
    endpoint = journey.ops.serving.endpoint(journey.service)
    example = journey.current.intent.example if journey.current.intent else None
    request = bench.request_for_example(SIGNATURE, example, model_name=endpoint.model_name)

    for _ in coldstart.fall_asleep(journey.ops, journey.current):
        pass
    assert journey.current.asleep
    cold = coldstart.wake(journey.ops.predictor, endpoint, request)
    warm = journey.ops.predictor.infer(endpoint, request)

    assert cold.outputs == warm.outputs
    # The pod that starts imports a model server, which no warm answer waits for.
    assert cold.timing.total_s > max(1.0, 5 * warm.timing.total_s)
