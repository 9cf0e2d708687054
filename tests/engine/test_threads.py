"""Functions beside the calling thread: order, overlap, errors."""

import threading
import time

import pytest

from d2_unsupdet.engine.threads import THREADS, in_threads


def test_results_are_in_order_whatever_finishes_first():
    def job(number):
        return lambda: (time.sleep(0.02 * (number % 3 == 0)), number)[1]

    pairs = list(in_threads((number, job(number)) for number in range(10)))
    assert pairs == [(number, number) for number in range(10)]
    assert list(in_threads([])) == []


def test_a_function_runs_while_the_next_item_is_made_and_few_are_kept():
    started, made = threading.Event(), []

    def jobs():
        for number in range(20):
            made.append(number)
            if number:
                assert started.wait(10)  # the first function runs beside this thread
            yield number, started.set

    for number, _ in in_threads(jobs()):
        assert len(made) - number <= THREADS + 1


def test_an_error_is_raised_where_the_results_are_read():
    def fail():
        raise ValueError("no cut")

    found = in_threads([(0, int), (1, fail), (2, int)])
    assert next(found) == (0, 0)
    with pytest.raises(ValueError, match="no cut"):
        next(found)
