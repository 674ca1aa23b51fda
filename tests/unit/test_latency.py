from __future__ import annotations

import math
import random
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import histogram, latency, records
from services.domain import LoadSummary, Objective, Sample, Tick
from services.histogram import Histogram
from services.latency import (
    Recorder,
    Slice,
    answered_words,
    judge,
    summarize,
)
from services.tally import NOT_SENT, Answerer
from tests.unit.test_histogram import NANOSECONDS, histogram_of, nearest_rank


def steady(seconds: list[float], *, rate: float = 100.0, **options: object) -> LoadSummary:
    """A run whose n-th request left on time and took seconds[n]."""
    samples = [Sample(i / rate, i / rate, i / rate + taken) for i, taken in enumerate(seconds)]
    return summarize(samples, target_rate=rate, **options)  # type: ignore[arg-type]


def log_normal(seed: int, n: int, factor: float = 1.0) -> list[float]:
    rng = random.Random(seed)
    return [rng.lognormvariate(math.log(0.005), 0.5) * factor for _ in range(n)]


@given(
    st.lists(
        st.tuples(st.floats(0, 60), st.floats(0, 1), st.sampled_from([None, "reset", "http-5xx"])),
        max_size=200,
    )
)
def test_answered_and_failed_add_up_to_all_requests(
    rows: list[tuple[float, float, str | None]],
) -> None:
    summary = summarize(Sample(at, at, at + taken, error) for at, taken, error in rows)
    assert summary.requests == len(rows)
    assert summary.ok + sum(summary.errors.values()) == summary.requests
    assert sum(count for _, count in summary.histogram) == summary.ok


def test_failures_never_count_as_fast_requests() -> None:
    good = [Sample(i, i, i + 0.1) for i in range(100)]
    failed = [Sample(i, i, i + 0.000_1, "refused") for i in range(100)]
    assert summarize(good + failed).response == summarize(good).response


def test_response_counts_from_the_intended_send_and_service_from_the_actual_one() -> None:
    summary = summarize([Sample(1.0, 1.5, 1.7)] * 40)
    assert summary.response.p50 == pytest.approx(0.7, rel=0.001)
    assert summary.service.p50 == pytest.approx(0.2, rel=0.001)


def test_ticks_hold_only_what_happened_since_the_last_one() -> None:
    recorder = latency.Recorder()
    for end_s in (0.5, 1.0, 1.5):
        piece = Slice(end_s)
        piece.response[Answerer(release=3)] = histogram_of([1_000_000] * 10)
        piece.service = histogram_of([1_000_000] * 10)
        recorder.add(piece)
        if end_s == 1.0:
            first = recorder.tick()
    second = recorder.tick(final=True)
    assert (first.ok, second.ok) == (20, 10)
    assert (first.rate, second.rate) == (20.0, 20.0)
    assert second.by_release == {3: 10}
    assert second.final


def test_counting_pauses_after_each_slice_and_each_histogram_of_a_second() -> None:
    pauses: list[int] = []
    recorder = latency.Recorder(pause=lambda: pauses.append(1))
    for end_s in (0.25, 0.5, 0.75, 1.0):
        piece = Slice(
            end_s, response={Answerer(version): histogram_of([10**6]) for version in (1, 2)}
        )
        piece.service = piece.lateness = histogram_of([10**6])
        recorder.add(piece)
    assert not pauses
    recorder.tick()
    slices, histograms_of_the_second = 4, 4
    assert len(pauses) >= slices + histograms_of_the_second


def test_a_tick_tells_the_spread_of_the_whole_run_so_far() -> None:
    recorder = latency.Recorder()
    for second in range(1, 4):
        recorder.add(Slice(float(second), response={Answerer(): histogram_of([10**6])}))
        told = recorder.tick().histogram
        assert sum(count for _, count in told) == second


SECONDS = st.lists(
    st.lists(NANOSECONDS, max_size=60).flatmap(
        lambda times: st.sampled_from([1, 1, 20]).map(lambda often: times * often)
    ),
    min_size=1,
    max_size=40,
)


def ticks_of(seconds: list[list[int]]) -> list[Tick]:
    recorder = latency.Recorder()
    ticks = []
    for end_s, times in enumerate(seconds, start=1):
        recorder.add(Slice(float(end_s), response={Answerer(): histogram_of(times)}))
        ticks.append(recorder.tick())
    return ticks


@given(SECONDS)
def test_a_trailing_percentile_is_that_of_the_fewest_seconds_with_ten_samples_behind_it(
    seconds: list[list[int]],
) -> None:
    for end, tick in enumerate(ticks_of(seconds), start=1):
        for name, per_mille in latency.TRAILING.items():
            needed = 10 * 1000 // (1000 - per_mille)
            windows = ([ns for second in seconds[start:end] for ns in second]
                       for start in range(end - 1, -1, -1))  # fmt: skip
            fewest = next((window for window in windows if len(window) >= needed), None)
            if fewest is None:
                assert name not in tick.trailing
                continue
            told, truth = tick.trailing[name], nearest_rank(fewest, per_mille) / 1e9
            assert truth - 1e-12 <= told.value_s <= truth * (1 + 1 / 1024) + 1e-12
            over = int(told.over_s)
            assert sum(map(len, seconds[end - over : end])) == len(fewest)


def test_a_slow_run_tells_its_p99_once_a_thousand_answers_came() -> None:
    ticks = ticks_of([[5_000_000] * 20] * 60)
    assert [set(ticks[at].trailing) for at in (0, 9, 48, 49)] == [
        {"p50"}, {"p50", "p95"}, {"p50", "p95"}, {"p50", "p95", "p99"},
    ]  # fmt: skip
    assert {name: told.over_s for name, told in ticks[59].trailing.items()} == {
        "p50": 1.0,
        "p95": 10.0,
        "p99": 50.0,
    }


def test_a_run_of_an_hour_trails_no_more_than_its_rarest_percentile_needs() -> None:
    recorder = latency.Recorder()
    for second in range(1, 3_601):
        times = [second * 10_000 + at for at in range(30 if second % 5 else 0)]
        recorder.add(Slice(float(second), response={Answerer(): histogram_of(times)}))
        recorder.tick()
    assert recorder._trail._n < 1_000 + 30
    assert len(recorder._trail._seconds) <= 35


def test_a_tick_tells_the_percentiles_of_the_run_so_far() -> None:
    so_far = [tick.so_far for tick in ticks_of([[ms * 10**6] * 500 for ms in (1, 3)])]
    assert [one.p99 for one in so_far if one] == [None, pytest.approx(0.003, rel=0.001)]


def test_reading_slow_answers_once_a_second_takes_little_memory() -> None:
    recorder = Recorder(target_rate=1.0)
    tracemalloc.start()
    for second in range(1, 401):
        times = histogram_of([9_000_000_000 + second * 1_000])
        recorder.add(Slice(float(second), response={Answerer(): times}, service=times))
        recorder.tick()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 10 * 2**20


def test_a_run_of_an_hour_keeps_no_more_than_its_blocks() -> None:
    recorder = latency.Recorder()
    for quarter in range(1, 3_600 * 4 + 1):
        piece = Slice(quarter / 4)
        piece.response[Answerer()] = histogram_of([quarter * 1_000] * 5)
        piece.service = histogram_of([quarter * 1_000] * 5)
        recorder.add(piece)
    summary = recorder.summary(span_s=3_600)
    blocks = histogram.blocks_from_text(summary.response_blocks)
    assert len(blocks) <= histogram.MAX_BLOCKS
    assert sum(block.n for block in blocks) == summary.ok == 3_600 * 4 * 5


def test_a_stored_summary_is_read_back_as_it_was() -> None:
    summary = steady(log_normal(1, 2_000))
    assert records.load(LoadSummary, records.dump(summary)) == summary


def test_latencies_are_given_per_release() -> None:
    fast = [Sample(i / 100, i / 100, i / 100 + 0.01, release=1) for i in range(50)]
    slow = [Sample(i / 100, i / 100, i / 100 + 0.09, release=2) for i in range(50)]
    summary = summarize(fast + slow)
    assert summary.by_release == {1: 50, 2: 50}
    assert summary.response_by_release[1].max == pytest.approx(0.01)
    assert summary.response_by_release[2].max == pytest.approx(0.09)


# Verdicts


def one_slice(**options: object) -> Slice:
    piece = Slice(1.0, **options)  # type: ignore[arg-type]
    piece.response[Answerer()] = histogram_of([2_000_000] * 1_000)
    piece.service = histogram_of([2_000_000] * 1_000)
    return piece


def verdict_of(piece: Slice, target_rate: float | None) -> LoadSummary:
    recorder = latency.Recorder(target_rate=target_rate)
    recorder.add(piece)
    return recorder.summary(span_s=1.0)


def test_late_sends_make_a_run_client_limited() -> None:
    summary = verdict_of(one_slice(lateness=histogram_of([5_000_000] * 1_000)), 1_000.0)
    assert summary.client_limited
    assert summary.verdict.startswith("Client-limited: 1 in 100 requests left 5 ms late")


def test_lateness_small_beside_a_slow_answer_does_not_limit() -> None:
    piece = Slice(1.0, lateness=histogram_of([2_000_000] * 1_000))
    piece.response[Answerer()] = histogram_of([400_000_000] * 1_000)
    piece.service = histogram_of([400_000_000] * 1_000)
    assert not verdict_of(piece, 1_000.0).client_limited


def test_waiting_that_the_client_caused_does_not_excuse_its_lateness() -> None:
    piece = Slice(1.0, lateness=histogram_of([20_000_000] * 1_000))
    piece.response[Answerer()] = histogram_of([3_000_000_000] * 1_000)
    piece.service = histogram_of([2_000_000] * 1_000)
    assert verdict_of(piece, 1_000.0).client_limited


def test_a_burst_that_needed_a_whole_core_is_client_limited() -> None:
    assert verdict_of(one_slice(cpu_s=0.95), None).client_limited
    assert not verdict_of(one_slice(cpu_s=0.5), None).client_limited


def test_a_steady_rate_that_needed_a_whole_core_is_client_limited() -> None:
    on_time = histogram_of([20_000] * 1_000)
    assert verdict_of(one_slice(cpu_s=0.99, lateness=on_time), 1_000.0).client_limited
    assert not verdict_of(one_slice(cpu_s=0.5, lateness=on_time), 1_000.0).client_limited


def test_a_server_that_keeps_every_connection_busy_limits_no_client() -> None:
    on_time = histogram_of([20_000] * 1_000)
    piece = one_slice(cpu_s=0.5, lateness=on_time, waited=1_000)
    assert not verdict_of(piece, 1_000.0).client_limited


def test_waiting_for_a_free_connection_is_said() -> None:
    summary = verdict_of(one_slice(cpu_s=0.1, waited=400), 1_000.0)
    assert "40% of the requests waited for a free connection" in summary.verdict


def test_who_left_in_time_is_told_of_those_that_were_sent() -> None:
    piece = one_slice(cpu_s=0.1, errors=Counter({NOT_SENT: 9_000}))
    piece.lateness = histogram_of([1_000] * 1_000)
    assert "99 of 100 requests that were sent left within" in verdict_of(piece, 1_000.0).verdict


def test_the_share_that_waited_is_of_those_that_were_sent() -> None:
    piece = one_slice(cpu_s=0.1, waited=500, errors=Counter({NOT_SENT: 9_000}))
    verdict = verdict_of(piece, 1_000.0).verdict
    assert "50% of the requests that were sent waited for a free connection" in verdict


def test_whether_the_objective_was_met_is_told_first() -> None:
    recorder = latency.Recorder(objective=Objective(p99_s=0.001))
    recorder.add(one_slice(cpu_s=0.1))
    assert recorder.summary(span_s=1.0).verdict.startswith("Objective missed.")


def test_failures_are_told_before_what_was_the_limit() -> None:
    samples = [Sample(i, i, i + 0.01, "reset" if i < 40 else None) for i in range(100)]
    verdict = summarize(samples).verdict
    assert verdict.startswith("40 of 100 requests failed (40 reset)")
    assert verdict.index("failed") < verdict.index("was not the limit")


@pytest.mark.parametrize(
    ("requests", "told"),
    [(1, "The one request failed (1 reset)."), (40, "All 40 requests failed (40 reset).")],
)
def test_where_nothing_was_answered_no_answered_ones_are_spoken_of(
    requests: int, told: str
) -> None:
    verdict = summarize([Sample(i, i, i + 0.01, "reset") for i in range(requests)]).verdict
    assert verdict == f"{told} No request was answered, so there are no times to read."


def test_nothing_is_said_of_99_in_100_requests_where_there_were_fewer() -> None:
    few = Slice(1.0, lateness=histogram_of([64_000]))
    few.response[Answerer()] = few.service = histogram_of([2_000_000])
    assert "99 of 100" not in verdict_of(few, 1.0).verdict
    late = Slice(1.0, lateness=histogram_of([64_000_000]))
    late.response[Answerer()] = late.service = histogram_of([2_000_000])
    assert "1 in 100" not in verdict_of(late, 1.0).verdict


def test_requests_that_never_left_are_told_as_such() -> None:
    piece = one_slice()
    piece.errors["not-sent"] = 1_400
    assert (
        "1,400 requests still waited for a free connection when the test's time was over, and"
        " were not sent." in verdict_of(piece, 1_000.0).verdict
    )


# Who answered


def test_a_run_of_one_version_is_called_by_it() -> None:
    assert answered_words(replace(steady([0.01] * 9), by_version={"wine/1": 9})) == "wine/1"


def test_a_mix_of_versions_is_called_by_its_shares() -> None:
    summary = replace(steady([0.01] * 10), by_version={"wine/2": 3, "wine/1": 7})
    assert answered_words(summary) == "wine/1 70 %, wine/2 30 % as answered"


def test_a_rare_version_is_not_called_none_nor_the_rest_all() -> None:
    summary = replace(steady([0.01] * 1_000), by_version={"wine/1": 998, "wine/2": 2})
    assert answered_words(summary) == "wine/1 99.8 %, wine/2 0.2 % as answered"


def test_answers_that_name_a_number_alone_are_called_by_their_model() -> None:
    summary = replace(steady([0.01] * 10), by_version={"1": 5, "2": 5})
    assert answered_words(summary, model="wine") == "wine/1 50 %, wine/2 50 % as answered"


def test_answers_that_name_releases_alone_are_called_by_them() -> None:
    summary = replace(steady([0.01] * 10), by_release={3: 5, 4: 4})
    assert answered_words(summary) == "release 3 50 %, release 4 40 %, unnamed 10 % as answered"


def test_nobody_who_answered_is_called_nothing() -> None:
    assert answered_words(summarize([Sample(0, 0, 1, "refused")])) == ""


# Objectives


def test_nothing_promised_is_neither_met_nor_missed() -> None:
    assert judge(steady([0.01] * 50), Objective(), Histogram(), Histogram()) == (None, "")


def test_a_slow_p99_misses_the_objective() -> None:
    summary = steady([0.01] * 1_900 + [0.5] * 100, objective=Objective(p99_s=0.1))
    assert summary.objective_met is False
    assert "Objective missed. p99 is 500 ms; 100 ms is promised." in summary.verdict


def test_too_many_failures_miss_the_objective() -> None:
    samples = [Sample(i, i, i + 0.01, "reset" if i < 3 else None) for i in range(100)]
    assert summarize(samples, objective=Objective(error_ratio=0.02)).objective_met is False
    assert summarize(samples, objective=Objective(error_ratio=0.03)).objective_met is True


def test_few_answers_that_all_were_fast_meet_the_objective() -> None:
    assert steady([0.01] * 50, objective=Objective(p99_s=0.1)).objective_met is True


def test_few_answers_of_which_half_were_slow_miss_the_objective() -> None:
    assert steady([0.2] * 50, objective=Objective(p99_s=0.1)).objective_met is False


def test_few_answers_with_one_slow_cannot_tell() -> None:
    assert steady([0.01] * 50 + [0.2], objective=Objective(p99_s=0.1)).objective_met is None


def limited(times_ms: list[int], late_ms: list[int], failed: int = 0) -> LoadSummary:
    """What a run is judged to be, by a promise of 50 ms, whose requests left so late."""
    recorder = Recorder(target_rate=100.0, objective=Objective(p99_s=0.05))
    piece = Slice(1.0, lateness=histogram_of([ms * 1_000_000 for ms in late_ms]))
    piece.response[Answerer()] = histogram_of([ms * 1_000_000 for ms in times_ms])
    piece.service = histogram_of([1_000_000] * len(times_ms))
    piece.errors["reset"] = failed
    recorder.add(piece)
    return recorder.summary(span_s=1.0)


def test_a_p99_missed_by_a_limited_client_cannot_tell() -> None:
    summary = replace(steady([0.2] * 2_000), client_limited=True)
    response = histogram_of([200_000_000] * 2_000)
    assert judge(summary, Objective(p99_s=0.1), response, Histogram())[0] is None


def test_a_p99_that_a_late_client_may_have_made_cannot_tell() -> None:
    summary = limited([60] * 2_000, [20] * 2_000)
    assert (summary.client_limited, summary.objective_met) == (True, None)
    assert "The objective cannot be judged." in summary.verdict


def test_a_promise_broken_even_without_the_clients_lateness_is_missed() -> None:
    summary = limited([13_600] * 2_000, [20] * 1_999 + [9_000])
    assert (summary.client_limited, summary.objective_met) == (True, False)
    assert "Objective missed. p99 is 13.6 s" in summary.verdict


def test_failures_miss_a_p99_though_the_client_was_the_limit() -> None:
    summary = limited([60] * 1_500, [20] * 2_000, failed=500)
    assert (summary.client_limited, summary.objective_met) == (True, False)


def test_what_a_limited_client_never_sent_is_not_held_against_the_server() -> None:
    recorder = Recorder(target_rate=100.0, objective=Objective(p99_s=0.05))
    piece = one_slice(lateness=histogram_of([2_000_000_000] * 1_000))
    piece.errors["not-sent"] = 500
    recorder.add(piece)
    summary = recorder.summary(span_s=1.0)
    assert (summary.client_limited, summary.objective_met) == (True, None)


@pytest.mark.parametrize("late_ns", [20_000, 20_000_000])
def test_what_waited_for_the_server_in_vain_is_held_against_it(late_ns: int) -> None:
    recorder = Recorder(target_rate=100.0, objective=Objective(p99_s=0.05))
    piece = one_slice(lateness=histogram_of([late_ns] * 1_000))
    piece.errors["not-sent"] = 500
    recorder.add(piece)
    assert recorder.summary(span_s=1.0).objective_met is False


def test_an_endpoint_that_goes_in_the_middle_misses_its_p99() -> None:
    samples = [Sample(i, i, i + 0.01, "refused" if i >= 89 else None) for i in range(140)]
    summary = summarize(samples, objective=Objective(p99_s=0.1))
    assert summary.objective_met is False
    assert "Objective missed. 51 of 140 requests failed" in summary.verdict


def test_failures_and_slow_answers_share_the_room_that_a_p99_leaves() -> None:
    samples = [Sample(i, i, i + (0.2 if i % 200 == 1 else 0.01)) for i in range(2_000)]
    promise = Objective(p99_s=0.1)
    assert summarize(samples, objective=promise).objective_met is True
    failing = [replace(s, error="reset") if i < 15 else s for i, s in enumerate(samples)]
    assert summarize(failing, objective=promise).objective_met is False


def test_no_answer_at_all_meets_no_latency_objective() -> None:
    summary = summarize([Sample(0, 0, 1, "refused")], objective=Objective(p99_s=0.1))
    assert summary.objective_met is False


Requests = list[tuple[int, int, bool]]
"""What the properties below make worse: the server's and the engine's milliseconds, and failed."""
_GROUPS = st.tuples(
    st.integers(1, 200),
    st.sampled_from([0, 0, 0, 40]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([1, 2, 9, 11, 200, 990, 1_500]),
)
REQUESTS = st.lists(_GROUPS, max_size=5).map(
    lambda groups: [(took, late, bad) for took, late, bad, n in groups for _ in range(n)]
)
PROMISES = st.builds(
    Objective, p99_s=st.integers(1, 150).map(lambda ms: ms / 1_000), error_ratio=st.none()
)
_ORDER = {False: 0, None: 1, True: 2}


def judged(requests: Requests, objective: Objective, pieces: int = 1) -> bool | None:
    recorder = Recorder(target_rate=100.0, objective=objective)
    for at in range(pieces):
        piece = Slice(0.25 * (at + 1))
        part = requests[at::pieces]
        answered = [(took_ms, late_ms) for took_ms, late_ms, failed in part if not failed]
        piece.errors["reset"] += len(part) - len(answered)
        piece.lateness = histogram_of([late_ms * 1_000_000 for _, late_ms, _ in part])
        piece.service = histogram_of([took_ms * 1_000_000 for took_ms, _ in answered])
        piece.response[Answerer()] = histogram_of([sum(both) * 1_000_000 for both in answered])
        recorder.add(piece)
    return recorder.summary(span_s=10.0).objective_met


@given(REQUESTS, PROMISES, st.integers(1, 200), st.integers(1, 10))
def test_slower_answers_never_judge_better(
    requests: Requests, promise: Objective, by_ms: int, every: int
) -> None:
    slower = [
        (took + by_ms * (i % every == 0), late, failed)
        for i, (took, late, failed) in enumerate(requests)
    ]
    assert _ORDER[judged(slower, promise)] <= _ORDER[judged(requests, promise)]


@given(REQUESTS, PROMISES, st.integers(1, 200))
def test_more_failures_never_judge_better(
    requests: Requests, promise: Objective, every: int
) -> None:
    failing = [
        (took, late, failed or i % every == 0) for i, (took, late, failed) in enumerate(requests)
    ]
    added = [*requests, (1, 0, True)]
    before = _ORDER[judged(requests, promise)]
    assert not requests or _ORDER[judged(failing, promise)] <= before
    assert not requests or _ORDER[judged(added, promise)] <= before


@given(REQUESTS, PROMISES, st.integers(2, 5))
def test_more_of_the_same_never_tells_less(
    requests: Requests, promise: Objective, times: int
) -> None:
    before = judged(requests, promise)
    assert before is None or judged(requests * times, promise) is before


@given(REQUESTS, PROMISES, st.integers(2, 9), st.integers(0, 1_000))
def test_the_verdict_does_not_depend_on_what_is_merged_first(
    requests: Requests, promise: Objective, pieces: int, seed: int
) -> None:
    shuffled = random.Random(seed).sample(requests, len(requests))
    assert judged(shuffled, promise, pieces) is judged(requests, promise)


# Shares


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.000_123_4, "123 µs"),
        (0.001_234, "1.23 ms"),
        (0.25, "250 ms"),
        (1.5, "1.5 s"),
        (120, "120 s"),
    ],
)
def test_durations_read_with_three_digits_and_a_unit(seconds: float, words: str) -> None:
    assert latency.in_words(seconds) == words
