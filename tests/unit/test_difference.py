"""Two runs against each other, and the versions that answered in one."""

from __future__ import annotations

import base64
import json
import math
import random
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import difference, histogram, records
from services.difference import Comparison, compare, compare_versions
from services.domain import LoadSummary, WayIn
from services.errors import ConfigError
from services.histogram import Histogram
from services.latency import Recorder, Slice
from services.tally import Answerer
from tests.unit.test_latency import log_normal, steady

CUT_SHORT = base64.b64encode(zlib.compress(bytes([5, 1, 1]))).decode()


def mixed(
    seed: int,
    *,
    slower: float = 1.0,
    share: float = 0.5,
    blocks: int = 40,
    rate: int = 800,
    disturbed: float = 0.0,
    from_block: int = 0,
    names: tuple[str, ...] = ("2", "3"),
) -> LoadSummary:
    """A run that versions answered in quarters of a second, all but the first `slower`.

    `share`: of the requests for each that is not the first. `disturbed`: by how much (as the sigma
    of a logarithm) a quarter makes everybody in it slower or faster. The others answer `from_block`
    on.
    """
    rng = random.Random(seed)
    recorder = Recorder()
    for number in range(blocks):
        piece = Slice((number + 1) / 4)
        shared = math.exp(rng.gauss(0, disturbed))
        for name in names if number >= from_block else names[:1]:
            first = name == names[0]
            part = 1 - share * (len(names) - 1) if first else share
            times, taken_ns = Histogram(), []
            for _ in range(round(rate * part / 4)):
                took_s = rng.lognormvariate(math.log(0.005), 0.3) * shared
                taken_ns.append(round(took_s * (1 if first else slower) * 1e9))
            times.record_all(taken_ns)
            piece.response[Answerer(version=name)] = times
            piece.service.merge(times)
        recorder.add(piece)
    return recorder.summary(span_s=blocks / 4)


def of_the_second(run: LoadSummary) -> Comparison:
    """Version 3 against version 2, which has the most answers or is the first."""
    [one] = compare_versions(run)
    assert (one.before, one.after) == ("2", "3")
    return one.found


# Runs


def told_half_as_slow_again(found: Comparison) -> None:
    """Version 3 takes 1.5 times as long, and both intervals hold that."""
    assert found.p50 is not None
    assert found.p99 is not None
    assert found.p50.low <= 1.5 <= found.p50.high
    assert found.p99.low <= 1.5 <= found.p99.high
    assert found.verdict.startswith("Version 3 is ")
    assert "percent slower at p99 and " in found.verdict


def test_runs_of_different_requests_are_told_as_such() -> None:
    assert "V2, 1 row and V1, 1 row" in difference.request_warning("V2, 1 row", "V1, 1 row")
    assert not difference.request_warning("V2, 1 row", "V2, 1 row")
    assert not difference.request_warning("", "V2, 1 row")


def test_a_slower_version_is_told_with_its_interval() -> None:
    found = compare(
        steady(log_normal(1, 6_000), rate=500),
        steady(log_normal(2, 6_000, factor=1.5), rate=500),
        ("version 2", "version 3"),
    )
    told_half_as_slow_again(found)


def test_the_same_service_twice_shows_no_difference() -> None:
    found = compare(steady(log_normal(1, 6_000)), steady(log_normal(4, 6_000)))
    assert found.p99 is not None
    assert not found.p99.told
    assert found.verdict.startswith("No difference can be told at p99 (between ")


def test_swapping_the_runs_turns_the_ratio_over() -> None:
    first, second = steady(log_normal(1, 3_000)), steady(log_normal(2, 3_000, factor=2.0))
    there, back = compare(first, second).p50, compare(second, first).p50
    assert there is not None
    assert back is not None
    assert there.ratio == pytest.approx(1 / back.ratio)
    assert there.low > 1 > back.high


def test_clustered_slowness_widens_the_interval() -> None:
    # One second in six is slow throughout: 40 % of its requests were no independent bad luck.
    clustered = [0.05 if i // 100 == 3 else 0.005 for i in range(2_000)]
    scattered = sorted(clustered, key=lambda _: random.Random(3).random())
    random.Random(3).shuffle(scattered)
    plain = steady([0.005] * 2_000)
    wide, narrow = compare(plain, steady(clustered)).p99, compare(plain, steady(scattered)).p99
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > narrow.high - narrow.low


def test_intervals_hold_the_true_ratio_about_as_often_as_they_say() -> None:
    held = 0
    for seed in range(30):
        found = compare(
            steady(log_normal(seed, 2_000)), steady(log_normal(seed + 100, 2_000, factor=1.2))
        ).p50
        assert found is not None
        held += found.low <= 1.2 <= found.high
    assert held >= 26


def test_too_few_requests_compare_to_nothing() -> None:
    found = compare(steady([0.01] * 5), steady([0.02] * 5))
    assert (found.p50, found.p99) == (None, None)
    assert found.verdict == "No difference can be told: too few requests were answered."


def test_differences_in_the_making_are_warned_of() -> None:
    first = steady([0.01] * 100)
    second = replace(steady([0.01] * 100, rate=50), client_limited=True)
    warnings = " ".join(compare(first, second).warnings)
    assert "The second was client-limited" in warnings
    assert "paced differently (100 requests a second and 50 requests a second)" in warnings


def test_different_ways_in_are_warned_of() -> None:
    assert "ingress and service-proxy" in difference.hop_warning(WayIn.INGRESS, WayIn.SERVICE_PROXY)
    assert not difference.hop_warning(WayIn.INGRESS, WayIn.INGRESS)


@pytest.mark.parametrize("text", ["%%%", "AAAA", CUT_SHORT])
def test_damaged_blocks_are_refused_in_words(text: str) -> None:
    run = steady([0.01] * 100)
    with pytest.raises(ConfigError, match="cannot be compared"):
        compare(run, replace(run, response_blocks=text))


# Versions of one run


def test_a_slower_version_of_one_run_is_told_with_its_interval() -> None:
    found = of_the_second(mixed(1, slower=1.5, share=0.4))
    told_half_as_slow_again(found)
    assert found.verdict.endswith(" than version 2.")


def test_equal_versions_of_one_run_are_told_apart_no_more_often_than_stated() -> None:
    held = [0, 0]
    for seed in range(20):
        found = of_the_second(mixed(seed, disturbed=0.2, rate=840))
        for at, one in enumerate((found.p50, found.p99)):
            assert one is not None
            held[at] += one.low <= 1 <= one.high
    assert min(held) >= 18


def test_equal_versions_show_no_difference_in_words() -> None:
    verdict = of_the_second(mixed(1, disturbed=0.2)).verdict
    assert verdict.startswith("No difference can be told at p99 (between ")


@pytest.mark.parametrize(
    "alike",
    [
        {"disturbed": 0.2},
        # A roll-out: from few blocks and apart from each other, the intervals have to be wide.
        {"disturbed": 0.2, "from_block": 30, "rate": 1_600},
        {"disturbed": 0.2, "from_block": 34, "rate": 2_800},
        {"blocks": 8, "rate": 1_000},
    ],
    ids=["beside", "the last quarter", "the last six blocks", "two seconds"],
)
def test_intervals_of_versions_hold_the_true_ratio_about_as_often_as_they_say(
    alike: dict[str, float],
) -> None:
    held = of = 0
    for seed in range(10):
        found = of_the_second(mixed(seed, slower=1.2, **alike))  # type: ignore[arg-type]
        for one in filter(None, (found.p50, found.p99)):
            of += 1
            held += one.low <= 1.2 <= one.high
    assert held >= 0.9 * of > 0


def test_what_disturbs_both_versions_is_no_difference_between_them() -> None:
    # The same times as two runs: there the disturbances are nobody's and widen the interval.
    together = mixed(3, slower=1.1, disturbed=0.4)
    alone = [
        replace(
            together,
            response=together.response_by_version[who],
            response_blocks=together.response_blocks_by_version[who],
        )
        for who in ("2", "3")
    ]
    beside, apart = of_the_second(together).p50, compare(alone[0], alone[1]).p50
    assert beside is not None
    assert apart is not None
    assert beside.told
    assert not apart.told
    assert beside.high - beside.low < 0.5 * (apart.high - apart.low)


def test_a_version_that_answered_for_a_moment_only_is_not_judged() -> None:
    found = of_the_second(mixed(1, slower=3.0, rate=6_000, blocks=24, from_block=21))
    assert (found.p50, found.p99) == (None, None)
    assert found.verdict == (
        "No difference can be told: version 3 answered for too short a part of the test."
        " Measure for longer."
    )


def test_few_answers_of_a_version_are_not_compared_at_p99() -> None:
    found = of_the_second(mixed(1, slower=2.0, share=0.05))
    assert found.p50 is not None
    assert found.p99 is None
    assert found.verdict.endswith("Too few requests were answered to compare p99.")


def test_fewer_answers_do_not_narrow_the_interval() -> None:
    widths = []
    for share in (0.05, 0.15, 0.45):
        found = [of_the_second(mixed(seed, slower=1.2, share=share)).p50 for seed in range(5)]
        widths.append(sum(one.high - one.low for one in found if one))
    assert widths == sorted(widths, reverse=True)


def test_versions_that_answered_one_after_the_other_are_warned_of() -> None:
    told = of_the_second(mixed(1, from_block=30)).warnings
    assert any("answered mostly at different times" in warning for warning in told)


def test_a_roll_out_in_the_middle_counts_what_both_answered_as_shared() -> None:
    assert not of_the_second(mixed(1, from_block=10)).warnings


def test_a_small_share_of_the_traffic_is_warned_of() -> None:
    [warning] = of_the_second(mixed(1, share=0.1)).warnings
    assert warning == ("Version 2 gave 7,200 answers, version 3 800: load alone changes latency.")


def test_failures_of_nobody_in_particular_are_warned_of() -> None:
    run = mixed(1)
    failing = replace(run, requests=run.ok + 800)
    [warning] = of_the_second(failing).warnings
    assert warning.startswith("9.1% of the requests failed, and no failure says whose it was")


def test_versions_are_called_by_their_model() -> None:
    run = mixed(1, slower=1.5)
    assert compare_versions(run, "wine")[0].found.verdict.startswith("wine/3 is ")
    named = compare_versions(mixed(1, slower=1.5, names=("wine/2", "wine/3")))
    assert named[0].found.verdict.startswith("wine/3 is ")


def test_the_same_run_always_gets_the_same_verdict() -> None:
    assert compare_versions(mixed(1)) == compare_versions(mixed(1))


def test_several_versions_are_each_held_against_the_one_with_most_answers() -> None:
    found = compare_versions(mixed(1, share=0.2, rate=2_000, names=("9", "8", "7")))
    assert [(one.before, one.after) for one in found] == [("9", "8"), ("9", "7")]


def test_no_more_than_five_versions_are_compared() -> None:
    run = mixed(1, share=0.1, rate=1_000, names=tuple("123456789"))
    assert len(run.by_version) == 9
    assert list(run.response_blocks_by_version) == list("12345")
    assert len(compare_versions(run)) == 4


def test_releases_are_compared_where_answers_name_no_version() -> None:
    recorder = Recorder()
    for number in range(20):
        piece = Slice((number + 1) / 4)
        for release, ns in ((7, 5_000_000), (9, 10_000_000)):
            piece.response[Answerer(release=release)] = times = Histogram()
            times.record_all([ns] * (60 if release == 7 else 50))
            piece.service.merge(times)
        recorder.add(piece)
    [one] = compare_versions(recorder.summary(span_s=5))
    assert (one.before, one.after) == ("release 7", "release 9")
    assert one.found.verdict.startswith("Release 9 is 100 percent slower at p99")


def test_a_run_of_one_version_keeps_its_times_once() -> None:
    run = mixed(1, names=("2",))
    assert run.response_blocks
    assert not run.response_blocks_by_version
    assert compare_versions(run) == ()


def test_versions_are_read_back_as_they_were_stored() -> None:
    run = mixed(1, slower=1.5)
    back = records.load(LoadSummary, records.dump(run))
    assert compare_versions(back) == compare_versions(run)


def test_a_run_of_an_earlier_slipway_opens_and_has_no_versions_to_compare() -> None:
    kept = json.loads(records.dump(mixed(1)))
    del kept["response_blocks_by_version"]
    opened = records.load(LoadSummary, json.dumps(kept))
    assert set(opened.by_version) == {"2", "3"}
    assert compare_versions(opened) == ()


def test_an_hour_of_five_versions_is_stored_small() -> None:
    # Slices as long as the blocks of an hour become, and far more spread than a server's times are.
    recorder, rng = Recorder(block_s=57.0), random.Random(1)
    pool = []
    for _ in range(4):
        times = Histogram()
        times.record_all([round(rng.lognormvariate(math.log(5e6), 1.0)) for _ in range(20_000)])
        pool.append(times)
    for minute in range(63):
        piece = Slice((minute + 1) * 57.0)
        for version in "12345":
            piece.response[Answerer(version=version)] = rng.choice(pool)
        recorder.add(piece)
    run = recorder.summary(span_s=3_600)
    assert sum(map(len, run.response_blocks_by_version.values())) <= 256 * 1024
    blocks = [histogram.blocks_from_text(text) for text in run.response_blocks_by_version.values()]
    assert {sum(block.n for block in each) for each in blocks} == {63 * 20_000}


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from([Answerer(1, "1"), Answerer(2, "2"), Answerer(3, "2"), Answerer()]),
            st.lists(st.integers(1, 10**9), min_size=1, max_size=5),
        ),
        min_size=1,
        max_size=150,
    )
)
@settings(max_examples=30)
def test_versions_keep_the_blocks_of_time_of_the_whole(
    slices: list[dict[Answerer, list[int]]],
) -> None:
    recorder = Recorder()
    for number, answered in enumerate(slices):
        piece = Slice((number + 1) / 4)
        for who, times in answered.items():
            piece.response[who] = kept = Histogram()
            kept.record_all(times)
        recorder.add(piece)
    run = recorder.summary(span_s=len(slices) / 4)
    sides = {
        who: histogram.blocks_from_text(text)
        for who, text in run.response_blocks_by_version.items()
    }
    assert {who: sum(block.n for block in side) for who, side in sides.items()} == (
        run.by_version if len(run.by_version) > 1 else {}
    )
    whole = histogram.blocks_from_text(run.response_blocks)
    for at, together in enumerate(zip(*sides.values(), strict=True)):
        assert sum(block.n for block in together) <= whole[at].n


def _cut(texts: dict[str, str]) -> dict[str, str]:
    return texts | {"3": CUT_SHORT}


def _uneven(texts: dict[str, str]) -> dict[str, str]:
    return texts | {"3": histogram.blocks_as_text(histogram.blocks_from_text(texts["3"])[:5])}


def _empty(texts: dict[str, str]) -> dict[str, str]:
    blocks = [Histogram() for _ in histogram.blocks_from_text(texts["3"])]
    return texts | {"3": histogram.blocks_as_text(blocks)}


def _endless(texts: dict[str, str]) -> dict[str, str]:
    return texts | {"3": histogram.blocks_as_text([Histogram()] * 100_000)}


@pytest.mark.parametrize("damage", [_cut, _uneven, _empty, _endless])
def test_damaged_blocks_of_a_version_are_refused_in_words(
    damage: Callable[[dict[str, str]], dict[str, str]],
) -> None:
    run = mixed(1)
    kept = damage(dict(run.response_blocks_by_version))
    with pytest.raises(ConfigError, match="cannot be compared"):
        compare_versions(replace(run, response_blocks_by_version=kept))
