"""The load engine's schedule: what is due, what waits, and whose fault a late send is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.engine.schedule import NEVER, REST_NS, Schedule
from services.tally import NS

MS = 1_000_000


def begun(rate: float = 1_000.0, warm_up: int = 0, total: int = 100) -> Schedule:
    schedule = Schedule(rate, warm_up=warm_up, total=total)
    schedule.begin(NS)
    return schedule


@given(st.floats(0.1, 100_000), st.integers(1, 200))
def test_the_n_th_request_is_due_after_n_intervals(rate: float, total: int) -> None:
    schedule, late_ns, due = begun(rate, total=total), list[int](), []
    for _ in range(total):
        due.append(schedule.due_ns)
        schedule.notice(schedule.due_ns, late_ns)
    assert all(abs(at - NS - n * NS / rate) < 2 for n, at in enumerate(due))
    assert schedule.due_ns == NEVER
    assert max(late_ns) == 0


def test_requests_are_taken_in_the_order_in_which_they_are_due() -> None:
    schedule = begun()
    schedule.notice_all(NS + 4 * MS, [])
    assert schedule.waiting == 5
    assert [schedule.take() for _ in range(5)] == [NS + n * MS for n in range(5)]
    assert schedule.waiting == 0


def test_an_engine_that_looks_late_is_late_for_every_request_in_between() -> None:
    schedule, late_ns = begun(), list[int]()
    schedule.next_look(NS)
    schedule.notice_all(NS + 30 * MS, late_ns)
    assert len(late_ns) == 31
    assert max(late_ns) == 30 * MS


@given(st.integers(0, 120), st.integers(0, 40), st.integers(0, 30))
def test_noticing_all_at_once_is_noticing_each(late_ms: int, warm_up: int, rest_ms: int) -> None:
    each, at_once = begun(warm_up=warm_up), begun(warm_up=warm_up)
    one_by_one, together = list[int](), list[int]()
    each.look_ns = at_once.look_ns = NS + rest_ms * MS
    now = NS + late_ms * MS
    at_once.notice_all(now, together)
    while each.due_ns <= now:
        each.notice(now, one_by_one)
    assert (at_once.noticed, at_once.due_ns) == (each.noticed, each.due_ns)
    assert together == one_by_one


def test_an_engine_that_looks_late_while_requests_wait_is_late_too() -> None:
    schedule, late_ns = begun(), list[int]()
    schedule.notice(NS, [])  # it waits for a connection
    look_ns = schedule.next_look(NS)
    schedule.notice(look_ns + 20 * MS, late_ns)
    assert max(late_ns) == 20 * MS


def test_resting_while_requests_wait_for_a_connection_is_not_late() -> None:
    schedule, late_ns = begun(rate=10_000.0, total=1_000), list[int]()
    schedule.notice(NS, late_ns)  # the server keeps the only connection busy
    while schedule.due_ns != NEVER:
        look_ns = schedule.next_look(schedule.due_ns)
        schedule.notice_all(look_ns, late_ns)
    assert len(late_ns) == schedule.waiting == 1_000
    assert max(late_ns) == 0


def test_it_looks_at_the_next_moment_unless_others_wait_before_it() -> None:
    schedule = begun()
    schedule.notice(NS, [])
    assert schedule.next_look(NS) == NS + REST_NS
    schedule.take()
    assert schedule.next_look(NS) == schedule.due_ns == NS + MS


def test_the_warm_up_has_no_lateness() -> None:
    schedule, late_ns = begun(warm_up=10, total=12), list[int]()
    for _ in range(12):
        schedule.notice(NS + 50 * MS, late_ns)
    assert len(late_ns) == 2


def test_polling_with_nothing_to_do_is_idle_time() -> None:
    schedule = begun()
    schedule.polling_since_ns = NS
    schedule.looks(NS + 3_000)
    assert schedule.polled_ns == 3_000


def test_work_between_two_looks_is_no_idle_time() -> None:
    schedule = begun()
    schedule.polling_since_ns = 0  # an answer came in between
    schedule.looks(NS)
    schedule.polling_since_ns = NS
    schedule.looks(NS + 2 * MS)  # something else had the core
    assert schedule.polled_ns == 0


def test_dropping_the_rest_tells_how_many_measured_requests_never_left() -> None:
    schedule = begun(warm_up=3, total=10)
    for _ in range(5):
        schedule.notice(NS + 5 * MS, [])
        schedule.take()
    assert schedule.drop() == 5
    assert (schedule.drop(), schedule.due_ns, schedule.waiting) == (0, NEVER, 0)
