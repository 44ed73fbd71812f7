"""Compiled policies against every policy in turn: random policies of every shape, random requests (decision 29)."""

import random
from dataclasses import replace
from typing import Any

import pytest

from guardhouse.expressions import NamedList, Scope, Traffic, Type, compile_expression, parse_expression, read_traffic
from guardhouse.policies import CONNECTION, QUERY, REQUEST, PolicySet
from tests.guardhouse.expressions import naive
from tests.guardhouse.policies import drawing, writing

SETS = 32
TRAFFIC = {
    CONNECTION: [Scope.L4_TRAFFIC],
    REQUEST: [Scope.L4_TRAFFIC, Scope.HTTP_TRAFFIC],
    QUERY: [Scope.DNS_TRAFFIC],
}


@pytest.mark.parametrize(
    "requests", [20_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(3_600)])]
)
def test_compiled_policies_and_every_policy_in_turn_agree(requests: int) -> None:
    chance = random.Random(requests)
    lengths = {0: 0, 1: 0, 2: 0}
    deciding: set[tuple[int, str]] = set()
    for number in range(SETS):
        # In a small set, each policy gets to decide.
        written = drawing.policies(chance, [2, 6, 20, 80][number % 4])
        compiled, in_order = PolicySet.compile(written, drawing.LISTS), drawing.InOrder(written)
        people = [people_and_device(chance) for _ in range(20)]
        masks = [compiled.identity_mask(identity) & compiled.posture_mask(posture) for identity, posture in people]
        for _ in range(requests // SETS):
            filters, scopes = chance.choice(list(TRAFFIC.items()))
            values = drawing.facts(chance, *scopes)
            traffic = read_traffic(values)
            person = chance.randrange(len(people))
            expected = in_order.match(filters, traffic, *people[person])
            assert compiled.match(filters, traffic, masks[person]) == expected, (values, people[person], written)
            lengths[len(expected)] += 1
            deciding.update((number, policy.policy_id) for policy in expected)
    # Where one answer hardly ever comes, little is compared.
    assert min(lengths.values()) > requests // 20, lengths
    assert len(deciding) > SETS * 8


FIELDS: dict[str, tuple[list[str], list[Any]]] = {
    "net.dst.port": (["{} == 5", "{} != 5", "{} >= 4", "{} <= 6", "{} in {{2..5 7}}"], [1, 3, 4, 5, 6, 7, 9]),
    "net.sni.host": (['{} == "a"', '{} matches "a"', '{} in {{"a" "b"}}', '{} matches "b$"'], ["a", "ab", "b", "c"]),
    "app.ids": (["any({}[*] == 5)", "any({}[*] != 5)", "{} > 4", "{} < 6"], [[], [4], [5], [6], [4, 6], [5, 7]]),
    "access.target": (["{}", "{} != true", "{} == false"], [True, False]),
}


@pytest.mark.parametrize("name", FIELDS)
def test_conditions_on_one_field_mean_the_same_in_any_arrangement(name: str) -> None:
    """Rows take as many of them as they can say together."""
    chance = random.Random(name)
    conditions, values = FIELDS[name]
    facts = [read_traffic({}), *(read_traffic({name: value}) for value in values)]

    def arranged(depth: int) -> str:
        if not depth or chance.random() < 0.2:
            text = chance.choice(conditions).format(name)
        else:
            text = chance.choice([" and ", " or "]).join(arranged(depth - 1) for _ in range(2))
        return f"not({text})" if chance.random() < 0.3 else f"({text})"

    for _ in range(150):
        text = arranged(3)
        asked = compile_expression(parse_expression(text, Scope.L4_TRAFFIC))
        compiled = PolicySet.compile([writing.written("pol_1", text)])
        who = compiled.identity_mask({}) & compiled.posture_mask({})
        for traffic in facts:
            assert bool(compiled.match(CONNECTION, traffic, who)) is asked(traffic), (text, traffic)


def test_a_set_obeys_every_edit_that_led_to_it() -> None:
    """What it takes over from the set before is what it would have made itself."""
    chance = random.Random(5)
    lists = dict(drawing.LISTS)
    written = drawing.policies(chance, 25)
    compiled = PolicySet.compile(written, lists)
    for edit in range(60):
        place = chance.randrange(len(written))
        match edit % 4:
            case 0:
                (written[place],) = drawing.policies(chance, 1)
            case 1:
                written[place] = replace(written[place], precedence=chance.randrange(50))
            case 2:
                policy = written[place].policy
                written[place] = replace(written[place], policy=replace(policy, enabled=not policy.enabled))
            case _:
                lists["texts"] = NamedList.of(Type.TEXT, chance.sample(naive.TEXTS, 4))
        compiled = PolicySet.compile(written, lists, previous=compiled)
        in_order = drawing.InOrder(written, lists)
        for _ in range(20):
            filters, scopes = chance.choice(list(TRAFFIC.items()))
            traffic = read_traffic(drawing.facts(chance, *scopes))
            identity, posture = people_and_device(chance)
            who = compiled.identity_mask(identity) & compiled.posture_mask(posture)
            assert compiled.match(filters, traffic, who) == in_order.match(filters, traffic, identity, posture)


def people_and_device(chance: random.Random) -> tuple[Traffic, Traffic]:
    identity, posture = drawing.facts(chance, Scope.IDENTITY), drawing.facts(chance, Scope.DEVICE_POSTURE)
    return read_traffic(identity), read_traffic(posture)


def test_the_trace_tells_what_match_does() -> None:
    """Decision 30a: the trace asks each policy by itself, so it is right where an index might not be."""
    chance = random.Random(29)
    for _ in range(4):
        written = drawing.policies(chance, 30)
        compiled = PolicySet.compile(written, drawing.LISTS)
        for filters, scopes in TRAFFIC.items():
            traffic = read_traffic(drawing.facts(chance, *scopes))
            identity, posture = people_and_device(chance)
            who = compiled.identity_mask(identity) & compiled.posture_mask(posture)
            steps = list(compiled.trace(filters, traffic, identity, posture, 0))
            assert [step.policy for step in steps if step.decides] == list(compiled.match(filters, traffic, who))
            assert len(steps) == sum(it.policy.filter in filters for it in written)
