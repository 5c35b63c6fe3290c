"""Settings checked by the declared types of their fields, which say what numbers can be."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin

from laperm_lib._arguments import check_bool, check_integer, check_name, check_number

INT32, FLOAT32 = 2**31 - 1, (2 - 2**-23) * 2.0**127
"""The largest: steps are counted in int32, weights and rates are float32."""

Natural = Annotated[int, partial(check_integer, at_least=0, at_most=INT32)]
Count = Annotated[int, partial(check_integer, at_least=1, at_most=INT32)]
Share = Annotated[float, partial(check_number, at_least=0, at_most=1)]
Positive = Annotated[float, partial(check_number, above=0, at_most=FLOAT32)]
NonNegative = Annotated[float, partial(check_number, at_least=0, at_most=FLOAT32)]
_ANY: dict[Any, Callable[[str, Any], Any]] = {
    bool: check_bool,
    int: partial(check_integer, at_least=-INT32, at_most=INT32),
    float: partial(check_number, at_least=-FLOAT32, at_most=FLOAT32),
}


def check_fields(instance: Any) -> None:
    """Make the fields of a frozen dataclass what their types say, or raise a ValueError.

    Their numbers become Python's own, so that equal instances have one JSON.
    """
    for field in fields(instance):
        value = check_type(field.name, getattr(instance, field.name), field.type)
        object.__setattr__(instance, field.name, value)


def check_type(name: str, value: Any, kind: Any) -> Any:
    """A value as a type has it; a type of numbers with limits is `Annotated` by their check."""
    origin, inside = get_origin(kind), get_args(kind)
    if type(None) in inside:
        return None if value is None else check_type(name, value, inside[0])
    if origin is Annotated:
        return inside[1](name, value)
    if kind in _ANY:
        return _ANY[kind](name, value)
    if origin is Literal:
        check_name(name, value, inside)
    elif origin is tuple:
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise ValueError(f"{name} takes several values, as in ({value!r},).")
        value = tuple(value)
        kinds = inside[:1] * len(value) if inside[-1] is ... else inside
        if len(value) != len(kinds):
            raise ValueError(f"{name} takes {len(kinds)} values, got {value!r}.")
        return tuple(check_type(name, each, one) for each, one in zip(value, kinds, strict=True))
    elif not isinstance(value, kind):
        raise ValueError(f"{name} takes a value of type {kind.__name__}, got {value!r}.")
    return value
