import numpy as np
import pytest

from laperm_lib._arguments import check_bool, check_integer, check_number, check_patterns


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), np.int64(1)])
def test_numbers_within_limits_become_floats(value):
    number = check_number("x", value, at_least=0, at_most=1)
    assert type(number) is float
    assert number == value


@pytest.mark.parametrize(
    "value", [-0.1, 1.1, np.nan, np.inf, 10**400, None, "0.5", True, [0.5], 0.5j]
)
def test_anything_else_is_refused_with_the_limits(value):
    with pytest.raises(ValueError, match=r"x is a number at least 0 and at most 1, got"):
        check_number("x", value, at_least=0, at_most=1)


def test_open_limits_and_none():
    with pytest.raises(ValueError, match="x is a number above 0, got 0"):
        check_number("x", 0, above=0)
    with pytest.raises(ValueError, match="x is a number below 1, got 1"):
        check_number("x", 1, below=1)
    assert check_number("x", -1e300) == -1e300
    for value in ("x", np.inf, np.nan):
        with pytest.raises(ValueError, match=r"^x is a finite number, got .*\.$"):
            check_number("x", value)


def test_integers():
    assert type(check_integer("n", np.int64(3), at_least=3)) is int
    for value in (2, 3.0, "3", True, None):
        with pytest.raises(ValueError, match="n is an integer of at least 3, got"):
            check_integer("n", value, at_least=3)
    with pytest.raises(ValueError, match="n is an integer of at least 3 and at most 5, got 6"):
        check_integer("n", 6, at_least=3, at_most=5)


def test_minus_zero_is_zero_and_flags_are_no_words():
    assert str(check_number("x", -0.0)) == "0.0"
    assert check_bool("flag", np.True_) is True
    for value in ("no", "", 0, 1, None, np.ones(2)):
        with pytest.raises(ValueError, match="flag is True or False, got"):
            check_bool("flag", value)


def test_patterns():
    assert check_patterns("exclude", ["a", "b$"]) == ("a", "b$")
    for patterns in ("(", ["ok", "["], [3]):
        with pytest.raises(ValueError, match="exclude takes regular expressions"):
            check_patterns("exclude", patterns)
