"""The search space that overrides span."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from i0t.config_errors import ConfigError
from i0t.sweeps.space import Choices, Numbers, read_space


def space_of(*overrides):
    return read_space(OverridesParser.create().parse_overrides(list(overrides)))


class Middle:
    """Takes the value in the middle, and remembers what it was asked."""

    def __init__(self):
        self.asked = {}

    def suggest_categorical(self, name, choices):
        self.asked[name] = ("categorical", tuple(choices))
        return choices[len(choices) // 2]

    def suggest_int(self, name, low, high, step=1, log=False):
        self.asked[name] = ("int", low, high, step, log)
        return (low + high) // 2

    def suggest_float(self, name, low, high, *, log=False):
        self.asked[name] = ("float", low, high, log)
        return (low + high) / 2


def test_what_varies_and_what_does_not():
    space = space_of("debug=tiny", "a=1,2,x y", "b=int(interval(1,5))", "c=tag(log,interval(1e-4,1e-2))",
                     "d=range(2,9,3)", "+e=interval(0,1.5)", "f=choice(true,x)", "~g", "h=[1,2]",
                     "i=range(0.0,1.0,0.25)")  # fmt: skip
    assert space.fixed == ("debug=tiny", "~g", "h=[1,2]")
    assert space.dimensions == (
        Choices("a", "1,2,x y", ("1", "2", "x\\ y")),
        Numbers("b", "int(interval(1,5))", 1, 5, None, False),
        Numbers("c", "tag(log,interval(1e-4,1e-2))", 1e-4, 1e-2, None, True),
        Numbers("d", "range(2,9,3)", 2, 8, 3, False),
        Numbers("+e", "interval(0,1.5)", 0, 1.5, None, False),
        Choices("f", "choice(true,x)", ("True", "x")),
        Choices("i", "range(0.0,1.0,0.25)", ("0.0", "0.25", "0.5", "0.75")),
    )


def test_a_trial_is_asked_for_every_dimension_in_its_own_way():
    space = space_of("seed=0", "a=1,2,3", "b=int(interval(1,5))", "c=tag(log,interval(1e-4,1e-2))", "d=range(2,9,3)",
                     "e=interval(0,1.5)")  # fmt: skip
    trial = Middle()
    assert space.suggest(trial) == ["seed=0", "a=2", "b=3", "c=0.00505", "d=5", "e=0.75"]
    assert trial.asked == {
        "a": ("categorical", ("1", "2", "3")),
        "b": ("int", 1, 5, 1, False),
        "c": ("float", 1e-4, 1e-2, True),
        "d": ("int", 2, 8, 3, False),
        "e": ("float", 0.0, 1.5, False),
    }


def test_a_float_is_written_so_that_it_is_read_back_exactly():
    value = 0.1 + 0.2
    low = next(o for o in space_of(f"x=interval({value!r},1.0)").corners()[0])
    assert float(low.partition("=")[2]) == value


def test_the_corners_hold_every_choice_and_both_ends():
    corners = space_of("k=v", "a=1,2,3", "b=int(interval(0,1))").corners()
    assert corners == [["k=v", "a=1", "b=0"], ["k=v", "a=2", "b=0"], ["k=v", "a=3", "b=0"], ["k=v", "a=1", "b=1"]]


def test_the_command_line_goes_before_the_file():
    space = space_of("a=1,2", "b=interval(0,1)", "a=7", "b=3,4")
    assert space.fixed == ("a=7",)
    assert space.dimensions == (Choices("b", "3,4", ("3", "4")),)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a=1", "varies nothing"),
        ("a=interval(3,1)", "must not be above the second"),
        ("a=tag(log,interval(0,1))", "must begin above 0"),
        ("a=range(3,3)", "holds no number"),
    ],
)
def test_a_space_that_cannot_be_is_one_line(override, message):
    with pytest.raises(ConfigError, match=message):
        space_of(override)
