"""The keys of what changes while it is gone through, in a model that goes through it with any changes in between."""

import random

import pytest

from guardhouse.replica import arrivals
from guardhouse.replica.arrivals import Arrivals


@pytest.mark.parametrize("seed", range(20))
def test_whoever_stays_is_met_whatever_comes_and_goes(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(arrivals, "PART", 8)
    dice, noted, of = random.Random(seed), Arrivals(), dict[str, int]()

    def change() -> None:
        for _ in range(dice.randrange(4)):
            key = f"{len(of)}.{dice.random()}"
            noted.note(key)
            of[key] = 0
        if of and dice.random() < 0.6:
            del of[dice.choice(list(of))]

    for _ in range(200):
        change()
    for _ in range(5):
        before, met = set(of), []
        for key in noted.those_in(of):
            met.append(key)
            change()
        assert before & set(of) <= set(met) <= before
        assert len(met) == len(set(met))


def test_what_has_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "PART", 8)
    noted = Arrivals()
    for number in range(80):
        noted.note(str(number))
    assert list(noted.those_in(["3", "77"])) == ["3", "77"]
    assert [it for part in noted._parts for it in part] == ["3", "77"]


def test_it_ends_though_more_come_than_are_met() -> None:
    noted, of = Arrivals(), {"first": 0}
    noted.note("first")
    for turn, _ in enumerate(noted.those_in(of)):
        for number in range(10_000):
            noted.note(f"{turn}.{number}")
            of[f"{turn}.{number}"] = 0
        assert turn == 0
