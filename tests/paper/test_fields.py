"""Settings are what their types say: every field of every part, tried with nonsense."""

from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest

from laperm_lib.paper import methods, networks
from laperm_lib.paper.augmentation import Augmentation
from laperm_lib.paper.settings import PUBLISHED, Data, Schedule

PARTS = [
    *(PUBLISHED["f1"], PUBLISHED["f1"].network, Data(dataset="mnist"), Augmentation()),
    Schedule(epochs=5, milestones=((1, 0.5),)),
    *(methods.Adam(), methods.SGD(), methods.LaPerm(sync_period=5), methods.SGPerm()),
    *(methods.RSO(), methods.Average(around=methods.Adam(), average="PSWA", sample_period=5)),
    *(networks.DenseNetwork(keep=(0.5,), shared_value=0.1), networks.SmallConvNetwork()),
    networks.SameCapacityNetwork(),
]
NONSENSE = (
    *(10**39, 10**400, 1e300, -1e300, float("nan"), float("inf"), "no", "", "5", "٣", "\0", b"no"),
    *(1j, object(), [[]], np.nan, methods.Adam, ("a",), ((1, 2, 3),), range(3)),
)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_nonsense_is_refused_by_every_field(part):
    for field in fields(part):
        takes_none = type(None) in get_args(field.type)
        for value in (*NONSENSE, *(() if takes_none else (None,))):
            with pytest.raises(ValueError, match=r"\.$"):
                replace(part, **{field.name: value})
        if isinstance(getattr(part, field.name), bool):
            with pytest.raises(ValueError, match=f"{field.name} is True or False, got 1"):
                replace(part, **{field.name: 1})
        elif isinstance(getattr(part, field.name), int | float):
            with pytest.raises(ValueError, match=f"{field.name} is a.* got True"):
                replace(part, **{field.name: True})


def test_minus_zero_is_zero_and_numbers_are_those_of_python():
    assert str(Schedule(epochs=np.int64(5), decay=-0.0).decay) == "0.0"
    assert [type(n) for n in Schedule(epochs=5, milestones=np.ones((1, 2), int)).milestones[0]] == [
        *(int, float)
    ]
    assert (
        repr(methods.LaPerm(sync_period=np.uint8(5), last_period=np.float32(0.5))).count("np") == 0
    )


@pytest.mark.parametrize(
    "schedule",
    [
        {"epochs": 45, "decay": 1e30},
        {"epochs": 3, "learning_rate": 1e30, "decay": 1e30},
        {"epochs": 9, "learning_rate": 1e30, "milestones": ((4, 1e30), (5, 1))},
    ],
)
def test_rates_that_grow_out_of_float32_are_refused(schedule):
    with pytest.raises(ValueError, match="highest learning rate of all epochs"):
        Schedule(**schedule)
