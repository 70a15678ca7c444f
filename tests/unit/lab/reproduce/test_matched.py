"""Comparison at equal forgetting, and the frontier."""

import pytest

from retainfirst_lab.reproduce.matched import at_forgetting, frontier, frontier_area


def path(*points):
    return [{"step": 2 * i, "forget": forget, "covered": covered} for i, (forget, covered) in enumerate(points)]


def test_the_crossing_is_interpolated():
    found = at_forgetting(path((1.0, 1.0), (0.5, 0.9), (0.1, 0.5)), 0.2)
    assert found == pytest.approx({"step": 3.5, "forget": 0.2, "covered": 0.6})


def test_the_first_crossing_counts():
    found = at_forgetting(path((1.0, 1.0), (0.2, 0.8), (0.6, 0.9), (0.2, 0.1)), 0.3)
    assert found["step"] < 2


def test_a_point_on_the_target_counts_and_only_shared_numbers_are_given():
    points = path((1.0, 1.0), (0.3, 0.6))
    points[1]["forget_loss"] = 5.0
    assert at_forgetting(points, 0.3) == pytest.approx({"step": 2.0, "forget": 0.3, "covered": 0.6})


def test_a_path_that_never_reaches_the_target_is_none():
    points = path((1.0, 1.0), (0.31, 0.6))
    assert at_forgetting(points, 0.3) is None
    assert frontier_area(points, "covered", 0.3) is None


def test_the_frontier_leaves_out_dominated_points():
    assert frontier(path((1.0, 1.0), (0.8, 0.7), (0.6, 0.9), (0.2, 0.5)), "covered") == [
        (0.2, 0.5),
        (0.6, 0.9),
        (1.0, 1.0),
    ]


def test_the_area_is_one_where_nothing_is_lost_and_the_retained_share_where_it_is_lost_at_once():
    assert frontier_area(path((1.0, 1.0), (0.6, 1.0), (0.3, 1.0)), "covered", 0.3) == pytest.approx(1.0)
    assert frontier_area(path((1.0, 1.0), (0.999, 0.5), (0.3, 0.5)), "covered", 0.3) == pytest.approx(0.5, abs=0.01)


def test_the_area_is_a_mean_over_forget_accuracies():
    # Best retain accuracy: 0.4 from 0.3 on, 0.8 from 0.65 on; the start, at 1.0, has no width.
    assert frontier_area(path((1.0, 1.0), (0.65, 0.8), (0.3, 0.4)), "covered", 0.3) == pytest.approx((0.4 + 0.8) / 2)


def test_a_path_beyond_the_target_is_compared_over_the_same_range():
    near, far = path((1.0, 1.0), (0.3, 0.4)), path((1.0, 1.0), (0.3, 0.4), (0.1, 0.2))
    assert frontier_area(far, "covered", 0.3) == pytest.approx(frontier_area(near, "covered", 0.3))
