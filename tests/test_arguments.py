import numpy as np
import pytest

from laperm_lib._arguments import check_bool, check_integer, check_number, check_patterns


def test_numbers():
    for value in (0, 0.5, np.float32(0.5), np.int64(1)):
        number = check_number("x", value, at_least=0, at_most=1)
        assert type(number) is float
        assert number == value
    assert check_number("x", -1e300) == -1e300
    assert str(check_number("x", -0.0)) == "0.0"
    for value in (-0.1, 1.1, np.nan, np.inf, 10**400, None, "0.5", True, [0.5], 0.5j):
        with pytest.raises(ValueError, match="x is a number at least 0 and at most 1, got"):
            check_number("x", value, at_least=0, at_most=1)
    for limits, words, *values in [
        ({"above": 0}, "a number above 0", 0),
        ({"below": 1}, "a number below 1", 1),
        ({}, "a finite number", "x", np.inf, np.nan),
    ]:
        for value in values:
            with pytest.raises(ValueError, match=rf"^x is {words}, got .*\.$"):
                check_number("x", value, **limits)


def test_integers():
    assert type(check_integer("n", np.int64(3), at_least=3)) is int
    for value in (2, 3.0, "3", True, None):
        with pytest.raises(ValueError, match="n is an integer of at least 3, got"):
            check_integer("n", value, at_least=3)
    with pytest.raises(ValueError, match="n is an integer of at least 3 and at most 5, got 6"):
        check_integer("n", 6, at_least=3, at_most=5)


def test_flags_are_no_words():
    assert check_bool("flag", np.True_) is True
    for value in ("no", "", 0, 1, None, np.ones(2)):
        with pytest.raises(ValueError, match="flag is True or False, got"):
            check_bool("flag", value)


def test_patterns():
    assert check_patterns("exclude", ["a", "b$"]) == ("a", "b$")
    for patterns in ("(", ["ok", "["], [3]):
        with pytest.raises(ValueError, match="exclude takes regular expressions"):
            check_patterns("exclude", patterns)
