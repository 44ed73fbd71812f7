"""Which device profile somebody gets: the first, by ascending precedence, that is enabled and holds (domain 2)."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardhouse.decisions import Profile
from guardhouse.device_profiles import (
    OS_NAMES,
    Rule,
    Subject,
    TunnelProtocol,
    facts,
    first_match,
    parse_match,
    trace,
)
from guardhouse.expressions import ExpressionInvalid
from guardhouse.registry.v1 import registry_pb2 as pb

EMAILS = ("ada@example.com", "Ada@Example.com", "bob@example.com", "")
GROUPS = ("staff", "ops", "it@example.com")
CLAIMS = ("level=7", "level=8", "site=berlin")
VERSIONS = ("6.1", "7.0", "")
NETWORKS = ("office", "home", "")
TOKENS = ("svt_1", "svt_2")

Holds = Callable[[Subject], bool]


def _person(subject: Subject) -> Profile:
    return subject.person or Profile("", "", ())


# Each condition as it is written, and what it means, read from the documentation and not from our compiler.
CONDITIONS: list[tuple[str, Holds]] = [
    *(
        (f'identity.email == "{it}"', lambda who, it=it: _person(who).email.lower() == it.lower())
        for it in EMAILS
        if it
    ),
    ('identity.email != "bob@example.com"', lambda who: _person(who).email.lower() != "bob@example.com"),
    ('identity.email matches ".*@example\\.com$"', lambda who: _person(who).email.lower().endswith("@example.com")),
    *((f'any(identity.groups.name[*] in {{"{it}"}})', lambda who, it=it: it in _person(who).groups) for it in GROUPS),
    ('identity.groups.id == "staff"', lambda who: "staff" in _person(who).groups),
    ('identity.groups.email == "it@example.com"', lambda who: "it@example.com" in _person(who).groups),
    ('identity.oidc_claims["level"] == "7"', lambda who: "level=7" in _person(who).claims),
    ('identity.saml_attributes["level"] == "7"', lambda _: False),
    *((f'identity.service_token_uuid == "{it}"', lambda who, it=it: who.service_token_id == it) for it in TOKENS),
    *((f'os.name == "{it}"', lambda who, it=it: who.os_name == it) for it in OS_NAMES.values()),
    ('os.name in {"mac" "linux"}', lambda who: who.os_name in ("mac", "linux")),
    ('os.version == "7.0"', lambda who: who.os_version == "7.0"),
    ('os.version matches "^6\\."', lambda who: re.match(r"6\.", who.os_version) is not None),
    ('network == "office"', lambda who: who.network == "office"),
    ('not network == "office"', lambda who: who.network != "office"),
]

conditions = st.sampled_from(CONDITIONS)


@st.composite
def matches(draw: st.DrawFn) -> tuple[str, Holds]:
    """One condition, or two of them together."""
    (text, holds), kind = draw(conditions), draw(st.sampled_from(("one", "and", "or", "not")))
    if kind == "one":
        return text, holds
    if kind == "not":
        return f"not ({text})", lambda who: not holds(who)
    other_text, other = draw(conditions)
    if kind == "and":
        return f"({text}) and ({other_text})", lambda who: holds(who) and other(who)
    return f"({text}) or ({other_text})", lambda who: holds(who) or other(who)


people = st.builds(
    Profile,
    st.sampled_from(EMAILS),
    st.just("Somebody"),
    st.lists(st.sampled_from(GROUPS), unique=True).map(tuple),
    st.lists(st.sampled_from(CLAIMS), unique=True).map(tuple),
)
devices = {
    "os_name": st.sampled_from(("", *OS_NAMES.values())),
    "os_version": st.sampled_from(VERSIONS),
    "network": st.sampled_from(NETWORKS),
}
subjects = st.builds(Subject, st.none() | people, st.just(""), **devices) | st.builds(
    Subject, st.none(), st.sampled_from(TOKENS), **devices
)


@given(st.lists(st.tuples(st.integers(1, 50), matches(), st.booleans()), unique_by=lambda it: it[0]), subjects)
def test_somebody_gets_what_a_plain_reading_says(
    written: list[tuple[int, tuple[str, Holds], bool]], somebody: Subject
) -> None:
    """domain 2: against a reading that sorts, and asks one after the other."""
    rules = [Rule(f"dpr_{precedence}", precedence, text, enabled) for precedence, (text, _), enabled in written]
    wanted = None
    for precedence, (_, holds), enabled in sorted(written, key=lambda it: it[0], reverse=True):
        if enabled and holds(somebody):
            wanted = f"dpr_{precedence}"
    about = facts(somebody)
    assert first_match(rules, about) == wanted
    steps = list(trace(rules, about))
    assert [step.rule.precedence for step in steps] == sorted(precedence for precedence, _, _ in written)
    assert [step.rule.device_profile_id for step in steps if step.decides] == ([wanted] if wanted else [])
    plain = {f"dpr_{precedence}": holds(somebody) for precedence, (_, holds), _ in written}
    assert {step.rule.device_profile_id: step.matched for step in steps} == plain


def test_a_trace_says_what_nobody_gave() -> None:
    """Decision 30a: a field that is missing makes a comparison false, and != true."""
    rules = [Rule("dpr_1", 1, 'network == "office" and os.name == "mac"'), Rule("dpr_2", 2, 'network != "office"')]
    first, second = trace(rules, facts(Subject(os_name="mac")))
    assert (first.matched, first.missing) == (False, ("network",))
    assert (second.matched, second.decides, second.missing) == (True, True, ("network",))


def test_named_lists_belong_to_policies() -> None:
    with pytest.raises(ExpressionInvalid, match=r"\$staff is a named list") as refused:
        parse_match('os.name == "mac" and identity.email in $staff')
    assert refused.value.column == 22


def test_what_only_a_later_release_can_read_is_nobodys() -> None:
    """A release that is taken back goes on enrolling."""
    rules = [Rule("dpr_1", 1, 'device.colour == "blue"'), Rule("dpr_2", 2, 'os.name == "mac"')]
    assert first_match(rules, facts(Subject(os_name="mac"))) == "dpr_2"
    assert first_match(rules, facts(Subject(os_name="linux"))) is None


def test_the_numbers_are_those_of_the_contract() -> None:
    """Pure rules import no messages, so they say the numbers again."""
    assert {
        number: name.removeprefix("PLATFORM_").lower() for name, number in pb.Platform.items() if number
    } == OS_NAMES
    assert [it.value for it in TunnelProtocol] == pb.TunnelType.values()
