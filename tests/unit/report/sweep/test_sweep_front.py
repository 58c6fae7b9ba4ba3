import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i0t.report.sweep_front import cost, goal_of, pareto_front


def beats(one, other, goals):
    """By the definition, in its own words: at least as good in both, better in one."""

    def better(a, b, goal):
        if goal == "lower":
            return a < b
        if goal == "higher":
            return a > b
        return abs(a - goal) < abs(b - goal)

    worse_somewhere = any(better(b, a, goal) for a, b, goal in zip(one, other, goals, strict=True))
    better_somewhere = any(better(a, b, goal) for a, b, goal in zip(one, other, goals, strict=True))
    return better_somewhere and not worse_somewhere


def naive_front(points, goals):
    """Every point against every other."""
    whole = [i for i, point in enumerate(points) if not any(value != value for value in point)]
    return {i for i in whole if not any(beats(points[j], points[i], goals) for j in whole)}


GOALS = ["lower", "higher", 0.5]
# Few values, so that ties in one number and in both are common.
VALUES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.just(math.nan), st.floats(-1, 2))


@given(
    points=st.lists(st.tuples(VALUES, VALUES), max_size=12),
    goals=st.tuples(st.sampled_from(GOALS), st.sampled_from(GOALS)),
)
def test_it_is_the_front_of_the_definition(points, goals):
    found = pareto_front(points, goals)
    assert len(found) == len(set(found))
    assert set(found) == naive_front(points, goals)


@pytest.mark.parametrize("goals", [(a, b) for a in GOALS for b in GOALS])
def test_it_is_the_front_of_the_definition_on_many_points(goals):
    draw = random.Random(3)
    points = [(draw.choice([draw.random(), 0.25]), round(draw.random(), 1)) for _ in range(200)]
    assert set(pareto_front(points, goals)) == naive_front(points, goals)


def test_the_front_goes_along_the_first_number_from_its_best():
    points = [(0.3, 0.9), (0.1, 0.2), (0.2, 0.5), (0.25, 0.4)]
    assert pareto_front(points, ("lower", "higher")) == [1, 2, 0]
    assert pareto_front(points, ("higher", "lower")) == [0, 3, 1]


def test_equal_points_stand_together_and_nan_beats_nothing():
    assert pareto_front([(1, 1), (1, 1), (math.nan, 9), (9, math.nan)], ("lower", "higher")) == [0, 1]
    assert pareto_front([(math.nan, 1.0)], ("lower", "lower")) == []
    assert pareto_front([], ("lower", "lower")) == []


def test_nothing_is_better_without_a_goal():
    with pytest.raises(ValueError, match=r"without a goal, got the value 0\.3"):
        cost(0.3, None)


@pytest.mark.parametrize(
    ("name", "goal"),
    [
        ("gap/centroid_distance", "lower"),
        ("gap/centroid_distance_unbiased", 0.0),
        ("gap/centroid_distance_unbiased_squared", 0.0),
        ("gap/centroid_distance_expected", None),
        ("gap/rmg_with_diagonal", "lower"),
        ("gap/linear_separability", 0.5),
        ("gap/alignment", "lower"),
        ("gap/image_uniformity", "lower"),
        ("gap/matched_cosine", "higher"),
        ("gap/text_shift", None),
        ("retrieval/t2i_r10", "higher"),
        ("retrieval/t2i_medr", "lower"),
        ("retrieval/t2i_tied", None),
        ("retrieval_1_caption/i2t_r1", "higher"),
        ("retrieval/image_neighbors_kept", "higher"),
        ("zeroshot/balanced/class", "higher"),
        ("caption_correlation/tau_b_clipped", "higher"),
        ("object_bias/text", 0.0),
        ("object_bias/text_contrast/digit", None),
        ("dimensions/dims_50", None),
        ("entropy/i2t", None),
    ],
)
def test_the_goal_of_every_kind_of_number(name, goal):
    assert goal_of(name) == goal
