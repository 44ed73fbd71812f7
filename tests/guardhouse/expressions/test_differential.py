"""The compiled function against a naive evaluator, from the text to the answer: random expressions, random traffic."""

import random

import pytest

from guardhouse.expressions import Scope, compile_expression, parse_expression, read_traffic
from tests.guardhouse.expressions import naive

HOSTS = {"net.sni.domains": "net.sni.host", "http.request.domains": "http.request.host", "dns.domains": "dns.fqdn"}


@pytest.mark.parametrize(
    "questions", [20_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(3_600)])]
)
def test_compiled_and_naive_agree(questions: int) -> None:
    chance = random.Random(questions)
    answers = {True: 0, False: 0}
    for number in range(questions // 20):
        scope = list(Scope)[number % len(Scope)]
        tree = naive.tree(chance, scope)
        text = naive.written(chance, tree)
        if len(text) > 490:
            # A device profile's match is no longer.
            tree = naive.tree(chance, scope, depth=1)
            text = naive.written(chance, tree)
        asked = compile_expression(parse_expression(text, scope), naive.NAMED)
        fields = naive.asked_for(tree)
        names = sorted(fields | {HOSTS[name] for name in fields if name in HOSTS})
        for _ in range(20):
            values = naive.values(chance, names)
            expected = naive.answer(tree, with_domains(values))
            assert asked(read_traffic(values)) is expected, (text, values)
            answers[expected] += 1
    # Where one answer hardly ever comes, nothing is compared.
    assert min(answers.values()) > questions // 5


def with_domains(values: dict[str, object]) -> dict[str, object]:
    """What the domains of a host are while nobody gives them: the host and all that is above it."""
    result = dict(values)
    for several, one in HOSTS.items():
        host = values.get(one)
        if several not in values and isinstance(host, str):
            labels = host.removesuffix(".").split(".")
            result[several] = [".".join(labels[place:]) for place in range(len(labels))]
    return result
