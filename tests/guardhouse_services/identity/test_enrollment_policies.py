"""Who may enroll (decision 12), without a database."""

import pytest

from guardhouse.errors import InvalidField
from guardhouse_services.identity.domain.enrollment_policies import (
    Decision,
    EnrollmentPolicy,
    Rule,
    RuleKind,
    Subject,
    evaluate,
)

EVERYONE = Rule(RuleKind.EVERYONE)
ANY_TOKEN = Rule(RuleKind.ANY_SERVICE_TOKEN)
ADA = Subject(email="Ada@Example.com", groups=("Ops", "on-call"))
ROBOT = Subject(service_token_id="svt_1")


def email(value: str) -> Rule:
    return Rule(RuleKind.EMAIL, value)


def domain(value: str) -> Rule:
    return Rule(RuleKind.EMAIL_DOMAIN, value)


def group(value: str) -> Rule:
    return Rule(RuleKind.GROUP, value)


def token(value: str) -> Rule:
    return Rule(RuleKind.SERVICE_TOKEN, value)


def policy(
    *include: Rule,
    decision: Decision = Decision.ALLOW,
    precedence: int = 10,
    require: tuple[Rule, ...] = (),
    exclude: tuple[Rule, ...] = (),
) -> EnrollmentPolicy:
    name = f"{decision.name}-{precedence}"
    return EnrollmentPolicy(name, name, decision, precedence, include, require, exclude)


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (EVERYONE, True),
        (email("ada@example.com"), True),
        (email("ADA@EXAMPLE.COM"), True),
        (email("da@example.com"), False),
        (domain("example.com"), True),
        (domain("@EXAMPLE.com"), True),
        (domain("ample.com"), False),
        (domain("com"), False),
        (group("Ops"), True),
        (group("ops"), False),
        (group("Op"), False),
    ],
)
def test_a_rule_about_people(rule: Rule, matches: bool) -> None:
    """Letters of either case are equal in addresses, and groups are to the letter."""
    assert evaluate([policy(rule)], ADA).admitted == matches


def test_the_domain_is_what_stands_behind_the_last_at() -> None:
    assert not evaluate([policy(domain("example.com"))], Subject(email='"x@example.com"@evil.org')).admitted
    assert not evaluate([policy(domain("example.com"))], Subject(email="ada@example.com.evil.org")).admitted
    assert not evaluate([policy(domain("example.com"))], Subject(email="example.com")).admitted


def test_a_letter_that_only_looks_like_ascii_is_another() -> None:
    """The Kelvin sign's lower case is a k, and it is somebody else's domain."""
    assert not evaluate([policy(domain("slack.com"))], Subject(email="eve@slac\u212a.com")).admitted


def test_without_a_verified_address_no_rule_about_addresses_matches() -> None:
    """Decision 1."""
    nobody = Subject(groups=("Ops",))
    assert not evaluate([policy(email("ada@example.com"), domain("example.com"))], nobody).admitted
    assert evaluate([policy(group("Ops"))], nobody).admitted


def test_include_is_or_require_is_and_exclude_is_not() -> None:
    """Decision 12."""
    assert evaluate([policy(email("x@y.z"), group("Ops"))], ADA).admitted
    assert evaluate([policy(EVERYONE, require=(group("Ops"), domain("example.com")))], ADA).admitted
    assert not evaluate([policy(EVERYONE, require=(group("Ops"), group("admins")))], ADA).admitted
    assert not evaluate([policy(EVERYONE, exclude=(group("admins"), group("on-call")))], ADA).admitted


def test_the_first_match_by_precedence_decides() -> None:
    """Decision 12: whatever the order in which they come."""
    allow, block = policy(EVERYONE, precedence=2), policy(group("Ops"), decision=Decision.BLOCK, precedence=1)
    for policies in ([allow, block], [block, allow]):
        verdict = evaluate(policies, ADA)
        assert (verdict.admitted, verdict.enrollment_policy_id) == (False, "BLOCK-1")
    later = policy(group("Ops"), decision=Decision.BLOCK, precedence=3)
    assert evaluate([later, allow], ADA).enrollment_policy_id == "ALLOW-2"


def test_no_match_refuses() -> None:
    """Decision 12."""
    verdict = evaluate([], ADA)
    assert (verdict.admitted, verdict.enrollment_policy_id) == (False, "")
    assert not evaluate([policy(group("admins"))], ADA).admitted


def test_machines_enroll_under_service_auth_only() -> None:
    """Decision 12: whatever its precedence, a policy for people neither admits nor blocks them."""
    people = [policy(EVERYONE, precedence=1), policy(EVERYONE, decision=Decision.BLOCK, precedence=2)]
    assert not evaluate(people, ROBOT).admitted
    for rule in (EVERYONE, ANY_TOKEN, token("svt_1")):
        machines = policy(rule, decision=Decision.SERVICE_AUTH, precedence=9)
        assert evaluate([*people, machines], ROBOT).enrollment_policy_id == "SERVICE_AUTH-9"
    assert not evaluate([policy(token("svt_2"), decision=Decision.SERVICE_AUTH)], ROBOT).admitted


def test_people_do_not_enroll_under_service_auth() -> None:
    """Decision 12: "everyone" is everyone with the policy's kind of credential."""
    assert not evaluate([policy(EVERYONE, decision=Decision.SERVICE_AUTH)], ADA).admitted


@pytest.mark.parametrize("place", ["include", "require", "exclude"])
@pytest.mark.parametrize("decision", list(Decision))
@pytest.mark.parametrize("rule", [EVERYONE, ANY_TOKEN, token("svt_1"), email("a@b.c"), domain("b.c"), group("g")])
def test_a_rule_about_the_other_kind_is_refused(place: str, decision: Decision, rule: Rule) -> None:
    """Decision 12: it could never match, and would look as if it did something."""
    rules = {"include": (EVERYONE,), "require": (), "exclude": ()} | {place: (EVERYONE, rule)}
    written = EnrollmentPolicy("", "Name", decision, 1, rules["include"], rules["require"], rules["exclude"])
    of_machines = rule in (ANY_TOKEN, token("svt_1"))
    if rule == EVERYONE or of_machines == (decision is Decision.SERVICE_AUTH):
        written.check()
        return
    with pytest.raises(InvalidField) as error:
        written.check()
    assert error.value.field == f"enrollment_policy.{place}[1]"


def test_the_explanation_says_which_rule_decided() -> None:
    assert evaluate([policy(email("x@y.z"), group("Ops"))], ADA).explanation == (
        "admitted by policy 'ALLOW-10' (ALLOW, precedence 10): group Ops matches"
    )
    assert evaluate([policy(EVERYONE, decision=Decision.BLOCK)], ADA).explanation == (
        "refused by policy 'BLOCK-10' (BLOCK, precedence 10): everyone matches"
    )


def test_the_explanation_says_why_nothing_matched() -> None:
    policies = [
        policy(group("admins"), precedence=1),
        policy(EVERYONE, precedence=2, require=(group("admins"),)),
        policy(EVERYONE, precedence=3, exclude=(group("Ops"),)),
        policy(EVERYONE, decision=Decision.SERVICE_AUTH, precedence=4),
    ]
    assert evaluate(policies, ADA).explanation == (
        "refused: no policy matches; "
        "'SERVICE_AUTH-4' (SERVICE_AUTH, precedence 4): it is for service tokens; "
        "'ALLOW-1' (ALLOW, precedence 1): none of its include rules matches; "
        "'ALLOW-2' (ALLOW, precedence 2): it requires group admins; "
        "'ALLOW-3' (ALLOW, precedence 3): it excludes group Ops"
    )


def test_the_explanation_is_bounded() -> None:
    policies = [policy(group("admins"), precedence=number) for number in range(1, 1001)]
    assert evaluate(policies, ADA).explanation.endswith("; and 980 more")
