from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import histogram, tally
from services.domain import Percentiles
from services.histogram import Histogram, lowest_ns
from services.tally import Tally

NANOSECONDS = st.integers(min_value=0, max_value=3_600 * 10**9)
TIMES = st.lists(NANOSECONDS, min_size=1, max_size=300)


def histogram_of(times: list[int]) -> Histogram:
    made = Histogram()
    made.record_all(times)
    return made


def read_back(made: Tally) -> Histogram:
    """As after the pipe, where others' bytes come before."""
    data = bytearray(b"others")
    row = made.as_row(data)
    return Histogram.from_row(row, bytes(data))


def nearest_rank(times: list[int], per_mille: int) -> int:
    return sorted(times)[max(1, math.ceil(len(times) * per_mille / 1000)) - 1]


def same(left: Histogram, right: Histogram) -> bool:
    """Whether two hold the same, in whatever order it came."""
    figures = [(one.n, one.total_ns, one.min_ns, one.max_ns, one.step) for one in (left, right)]
    counts = [[side.tolist() for side in one.buckets()] for one in (left, right)]
    return figures[0] == figures[1] and counts[0] == counts[1]


@given(TIMES, st.sampled_from([500, 900, 950, 990, 999, 1000]))
def test_a_quantile_is_the_sorted_lists_to_one_part_in_a_thousand(
    times: list[int], per_mille: int
) -> None:
    seen = histogram_of(times).quantile_s(per_mille)
    truth = nearest_rank(times, per_mille) / 1e9
    assert seen is not None
    assert truth <= seen + 1e-12
    assert seen <= truth * (1 + 1 / 1024) + 1e-12


@given(TIMES)
def test_percentiles_ascend_between_minimum_and_maximum(times: list[int]) -> None:
    shown = histogram_of(times * 40).percentiles()
    known = [
        value
        for value in (shown.p50, shown.p90, shown.p95, shown.p99, shown.p99_9, shown.max)
        if value is not None
    ]
    assert min(times) / 1e9 <= known[0]
    assert known == sorted(known)
    assert known[-1] == max(times) / 1e9


@given(TIMES, st.lists(NANOSECONDS, max_size=100))
def test_times_counted_together_are_the_same_as_one_by_one(
    before: list[int], together: list[int]
) -> None:
    one_by_one = Histogram()
    for ns in before + together:
        one_by_one.record_all([ns])
    counted = histogram_of(before)
    counted.record_all(together)
    assert same(counted, one_by_one)


@given(TIMES, TIMES)
def test_merging_is_the_same_as_recording_everything_in_one(
    left: list[int], right: list[int]
) -> None:
    joined = histogram_of(left)
    joined.merge(histogram_of(right))
    assert same(joined, histogram_of(left + right))


@given(st.lists(st.tuples(TIMES, st.booleans()), min_size=1, max_size=6), st.sampled_from([1, 4]))
def test_when_times_are_counted_makes_no_difference(
    parts: list[tuple[list[int], bool]], wider: int
) -> None:
    joined = Histogram(wider)
    for times, counted_first in parts:
        part = histogram_of(times)
        if counted_first:
            part.count()
        joined.merge(part.coarser(wider))
        if counted_first:
            joined.count()
    everything = histogram_of([ns for times, _ in parts for ns in times])
    everything.count()
    assert same(joined, everything.coarser(wider))


@given(st.lists(TIMES, min_size=1, max_size=5), st.sampled_from([500, 950, 990]))
def test_packed_histograms_together_have_the_quantiles_of_the_whole(
    parts: list[list[int]], per_mille: int
) -> None:
    window = histogram.Gathered()
    for part in parts:
        window.add(histogram_of(part).packed())
        window.quantile_s(per_mille)
    assert window.quantile_s(per_mille) == histogram_of(
        [ns for part in parts for ns in part]
    ).quantile_s(per_mille)


@given(st.lists(TIMES, min_size=1, max_size=9))
def test_few_times_wait_to_be_counted_and_few_are_counted_together(parts: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histogram, "_MOST_WAITING", 50)
        patch.setattr(histogram, "_AT_ONCE", 7)
        joined = Histogram()
        for part in parts:
            joined.merge(histogram_of(part))
            assert sum(map(len, joined._waiting)) <= 50
        joined.count()
    assert same(joined, histogram_of([ns for part in parts for ns in part]))


@given(TIMES, TIMES)
def test_tallies_that_were_merged_are_read_as_one_of_everything(
    left: list[int], right: list[int]
) -> None:
    joined, more = Tally(), Tally()
    joined.record_all(left)
    more.record_all(right)
    joined.merge(more)
    assert same(read_back(joined), histogram_of(left + right))


@given(TIMES, st.integers(min_value=0, max_value=300))
def test_times_that_a_tally_counted_itself_are_read_as_those_that_it_left(
    times: list[int], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "UNCOUNTED", most)
        made = Tally()
        for begin in range(0, len(times), 7):
            made.record_all(times[begin : begin + 7])
        assert len(made.times_ns) <= most
    assert bool(made)
    assert same(read_back(made), histogram_of(times))


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_every_time_is_in_the_bucket_whose_lowest_is_at_most_it(ns: int) -> None:
    made = Tally()
    made.record_all([ns])
    assert made.times_ns
    (number,), (count,) = (side.tolist() for side in read_back(made).buckets())
    assert count == 1
    assert lowest_ns(number) <= ns < lowest_ns(number + 1)


@given(st.lists(TIMES, max_size=5))
def test_merging_starts_from_nothing(parts: list[list[int]]) -> None:
    joined = histogram.merged(histogram_of(part) for part in parts)
    times = [ns for part in parts for ns in part]
    assert (joined.n, joined.min_ns, joined.max_ns) == (
        len(times),
        min(times, default=0),
        max(times, default=0),
    )


@given(TIMES)
def test_every_time_is_in_the_bucket_that_spans_it(times: list[int]) -> None:
    indexes, counts = histogram_of(times).buckets()
    spans = [(lowest_ns(index), lowest_ns(index + 1)) for index in indexes.tolist()]
    inside = [sum(low <= ns < high for ns in times) for low, high in spans]
    assert inside == counts.tolist()


@given(TIMES, st.sampled_from([4, 64]))
def test_coarser_buckets_are_the_finer_ones_joined(times: list[int], wider: int) -> None:
    fine, coarse = histogram_of(times), histogram_of(times).coarser(wider)
    joined: Counter[int] = Counter()
    for index, count in zip(*(side.tolist() for side in fine.buckets()), strict=True):
        joined[index // wider * wider] += count
    assert dict(zip(*(side.tolist() for side in coarse.buckets()), strict=True)) == joined


@given(TIMES, NANOSECONDS)
def test_what_took_longer_is_counted_to_the_width_of_a_bucket(times: list[int], ns: int) -> None:
    longer = histogram_of(times).over(ns / 1e9)
    assert sum(each > ns * (1 + 1 / 1024) for each in times) <= longer
    assert longer <= sum(each > ns * (1 - 1 / 1024) for each in times)


@given(st.lists(st.lists(NANOSECONDS, max_size=50), max_size=8))
def test_blocks_are_read_back_from_their_text_as_they_were(parts: list[list[int]]) -> None:
    blocks = [histogram_of(part).coarser() for part in parts]
    read = histogram.blocks_from_text(histogram.blocks_as_text(blocks)) if blocks else []
    assert [block.n for block in read] == [block.n for block in blocks]
    for before, after in zip(blocks, read, strict=True):
        assert [side.tolist() for side in after.buckets()] == [
            side.tolist() for side in before.buckets()
        ]


@given(TIMES)
def test_bars_are_few_ascending_and_hold_every_sample(times: list[int]) -> None:
    bars = histogram_of(times).bars(limit=50)
    bounds = [bound for bound, _ in bars]
    assert len(bars) <= 50
    assert bounds == sorted(set(bounds))
    assert sum(count for _, count in bars) == len(times)
    assert bounds[-1] * 1e9 >= max(times)


@pytest.mark.parametrize(
    ("n", "shown"),
    [
        (19, []),
        (20, ["p50"]),
        (100, ["p50", "p90"]),
        (999, ["p50", "p90", "p95"]),
        (1_000, ["p50", "p90", "p95", "p99"]),
        (10_000, ["p50", "p90", "p95", "p99", "p99_9"]),
    ],
)
def test_a_percentile_needs_ten_samples_behind_it(n: int, shown: list[str]) -> None:
    percentiles = histogram_of(list(range(n))).percentiles()
    names = ("p50", "p90", "p95", "p99", "p99_9")
    assert [name for name in names if getattr(percentiles, name) is not None] == shown


def test_no_sample_gives_no_figure() -> None:
    assert Histogram().percentiles() == Percentiles(None, None, None, None, None, None, None)
    assert Histogram().quantile_s(500) is None


def test_the_engines_process_starts_without_the_libraries_of_who_reads_it() -> None:
    told = "import sys, services.engine.load; print(*{'numpy', 'streamlit'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
