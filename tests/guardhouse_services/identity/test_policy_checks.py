"""Conditions that nobody can meet are refused, and what is surely not meant is warned about (decision 12)."""

import time

import pytest

from guardhouse.errors import InvalidField
from guardhouse.rules import Rule, RuleKind
from guardhouse_services.identity.domain.enrollment_policies import EVERYONE, Decision, EnrollmentPolicy, RuleGroup
from guardhouse_services.identity.domain.policy_checks import WARNINGS, check, warnings

ADA = Rule(RuleKind.EMAIL, "Ada@Example.com")
BOB = Rule(RuleKind.EMAIL, "bob@example.com")
STAFF = Rule(RuleKind.EMAIL_DOMAIN, "@example.COM")
OTHERS = Rule(RuleKind.EMAIL_DOMAIN, "example.org")
OPS, DEV = Rule(RuleKind.GROUP, "ops"), Rule(RuleKind.GROUP, "dev")
OFFICE, DESK, HOME = (Rule(RuleKind.IP_RANGE, it) for it in ("192.0.2.0/24", "192.0.2.7", "2001:db8::/32"))
SSO, OTHER_SSO = (Rule(RuleKind.LOGIN_METHOD, f"idp_{number}") for number in (1, 2))
ANY_TOKEN = Rule(RuleKind.ANY_SERVICE_TOKEN)
GERMANY, FRANCE = Rule(RuleKind.COUNTRY, "DE"), Rule(RuleKind.COUNTRY, "FR")
STAFF_GROUP = Rule(RuleKind.RULE_GROUP, "rgp_1")

Rules = tuple[Rule, ...]


@pytest.mark.parametrize(
    ("include", "require", "exclude", "field"),
    [
        ((EVERYONE,), (), (OPS, EVERYONE), "exclude[1]"),
        ((ANY_TOKEN,), (), (ANY_TOKEN,), "exclude[0]"),
        ((EVERYONE,), (ADA, BOB), (), "require[1]"),
        ((EVERYONE,), (ADA, OTHERS), (), "require[1]"),
        ((EVERYONE,), (OTHERS, ADA), (), "require[1]"),
        ((EVERYONE,), (STAFF, OTHERS), (), "require[1]"),
        ((EVERYONE,), (GERMANY, FRANCE), (), "require[1]"),
        ((EVERYONE,), (SSO, OTHER_SSO), (), "require[1]"),
        ((EVERYONE,), (OFFICE, HOME), (), "require[1]"),
        ((EVERYONE,), (OPS,), (OPS,), "require[0]"),
        ((EVERYONE,), (ADA,), (STAFF,), "require[0]"),
        ((EVERYONE,), (DESK,), (OFFICE,), "require[0]"),
        ((ADA, OPS), (), (STAFF, OPS), "include"),
        ((DESK,), (), (OFFICE,), "include"),
        ((ADA,), (OTHERS,), (), "include"),
        ((STAFF_GROUP,), (), (STAFF_GROUP,), "include"),
    ],
)
def test_conditions_that_nobody_can_meet_are_refused(
    include: Rules, require: Rules, exclude: Rules, field: str
) -> None:
    """Decision 12: such a policy would look as if it did something."""
    with pytest.raises(InvalidField) as error:
        check(RuleGroup("", "", include, require, exclude), "enrollment_policy")
    assert error.value.field == f"enrollment_policy.{field}"


@pytest.mark.parametrize(
    ("include", "require", "exclude"),
    [
        ((ADA, BOB), (STAFF,), ()),
        ((ADA, OTHERS), (STAFF,), ()),
        ((EVERYONE,), (OPS, DEV, ADA, STAFF), (OTHERS,)),
        ((STAFF,), (), (ADA,)),
        ((OFFICE,), (), (DESK,)),
        ((EVERYONE,), (OFFICE, DESK), (HOME,)),
        ((EVERYONE,), (), (STAFF_GROUP,)),
        ((ADA, OPS), (), (STAFF,)),
    ],
)
def test_conditions_that_somebody_can_meet_are_not(include: Rules, require: Rules, exclude: Rules) -> None:
    check(RuleGroup("", "", include, require, exclude), "rule_group")


def test_a_check_of_as_many_rules_as_there_may_be_is_quick() -> None:
    """I-34: a write holds its locks meanwhile, so rules are not compared in pairs."""
    networks = tuple(Rule(RuleKind.IP_RANGE, f"10.{number // 250}.{number % 250}.0/24") for number in range(1000))
    excluded = tuple(Rule(RuleKind.IP_RANGE, f"10.{number // 250}.{number % 250}.0/25") for number in range(1000))
    began = time.process_time()
    check(RuleGroup("", "", networks, (), excluded), "rule_group")
    assert time.process_time() - began < 0.5


def policy(*include: Rule, precedence: int, decision: Decision = Decision.ALLOW, **more: Rules) -> EnrollmentPolicy:
    require, exclude = more.get("require", ()), more.get("exclude", ())
    return EnrollmentPolicy(f"enp_{precedence}", f"P{precedence}", decision, precedence, include, require, exclude)


def test_a_policy_behind_one_for_everyone_is_warned_about() -> None:
    """Decision 12: the first match decides, so it never does; each half has an order of its own."""
    everyone, behind = policy(EVERYONE, precedence=5), policy(OPS, precedence=6)
    before = "it never decides: 'P5' (ALLOW, precedence 5) is tried before it and matches everyone"
    assert warnings(behind, [everyone], (), ()) == (before,)
    shadows = "it matches everyone, so no policy behind it ever decides; the next is 'P6' (ALLOW, precedence 6)"
    assert warnings(everyone, [behind], (), ()) == (shadows,)
    assert warnings(policy(OPS, precedence=4), [everyone], (), ()) == ()
    assert warnings(behind, [policy(EVERYONE, precedence=5, require=(DEV,))], (), ()) == ()
    machines = policy(ANY_TOKEN, precedence=1, decision=Decision.SERVICE_AUTH)
    assert warnings(behind, [machines], (), ()) == warnings(machines, [behind], (), ()) == ()


def test_a_rule_that_nobody_matches_as_things_are_is_warned_about() -> None:
    """It is allowed: the provider may come, or keep the claim, later."""
    claim = Rule(RuleKind.OIDC_CLAIM, "level=7")
    written = policy(SSO, claim, ADA, precedence=1, exclude=(STAFF,))
    assert warnings(written, [], ("idp_1",), ("level",)) == (
        "include[2] never matches: email Ada@Example.com is excluded as well",
    )
    assert warnings(policy(SSO, claim, precedence=1), [], (), ()) == (
        "include[0] never matches: the organization has no identity provider idp_1",
        "include[1] never matches: no identity provider keeps the claim 'level'; add it to its oidc_claims",
    )


def test_warnings_are_bounded() -> None:
    """I-34."""
    unknown = tuple(Rule(RuleKind.LOGIN_METHOD, f"idp_{number}") for number in range(1000))
    found = warnings(policy(*unknown, precedence=1), [], (), ())
    assert len(found) == WARNINGS
    assert found[-1] == "and 981 more"
