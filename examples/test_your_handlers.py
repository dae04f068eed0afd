"""Try handlers as unit tests: `zmqkit.testing.job` for a single job, `run` for a handler, or a `Worker`, over many.

No socket, thread or journal is made and no delay is waited for, so a test takes milliseconds. What runs is the real
thing all the same: bodies travel through the codec, and exceptions mean what they mean in a pipeline. This file is
one that pytest collects; without pytest it runs its tests itself. Prints each test that passed.
"""

import logging

import zmqkit
from zmqkit.testing import job, run

# ---- what is tested: usually it is in a module of your own ---------------------------


def price(order: zmqkit.Job[dict[str, int]]) -> dict[str, int]:
    """A handler that sees its job, not only the body."""
    if order.body["count"] < 0:
        raise zmqkit.Reject("nobody orders less than nothing")
    if order.body["count"] > 100 and order.failures < 2:
        raise zmqkit.Retry(delay=3600, reason="the warehouse is to look twice")
    return {"total": order.body["count"] * 5}


def save(order: zmqkit.Job[dict[str, int]], rows: list[int]) -> None:
    """A part of a loop of one's own: it settles its job itself."""
    with order:
        rows.append(order.body["total"])
        if order.headers.get("dry") == "yes":
            raise zmqkit.Reject("only a rehearsal")


# ---- the tests -----------------------------------------------------------------------


def test_results_are_sent() -> None:
    report = run(price, [{"count": 1}, {"count": 2}])
    assert report.sent == [{"total": 5}, {"total": 10}]
    assert (report.acked, report.dead) == (2, [])


def test_nonsense_becomes_a_dead_letter() -> None:
    report = run(price, [{"count": -1}, {"count": 1}])
    assert [(letter.body, letter.reason) for letter in report.dead] == [
        ({"count": -1}, "nobody orders less than nothing")
    ]
    assert report.acked == 1


def test_large_orders_come_three_times() -> None:
    assert run(price, [{"count": 101}]).sent == [{"total": 505}]  # two hours, in no time
    assert price(job({"count": 101}, failures=2)) == {"total": 505}  # or the third time alone


def test_a_bug_comes_out_of_run() -> None:
    try:
        run(price, [{"amount": 1}])  # with pytest: `with pytest.raises(KeyError):`
    except KeyError:
        return
    raise AssertionError("it should have raised")


def test_a_job_tells_what_became_of_it() -> None:
    rows: list[int] = []
    order = job({"total": 5})
    save(order, rows)
    assert (order.outcome, rows) == ("acked", [5])
    order = job({"total": 5}, headers={"dry": "yes"})
    save(order, rows)
    assert order.outcome == "rejected"


def main() -> None:
    logging.getLogger("zmqkit").setLevel(logging.CRITICAL)  # it logs failures; here they are made on purpose
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("passed:", name)


if __name__ == "__main__":
    main()
