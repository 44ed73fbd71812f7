"""Who may enroll (decision 12), without a database."""

import pytest

from guardhouse.errors import InvalidField
from guardhouse.rules import NOWHERE, Client, Identity, Rule, RuleKind
from guardhouse_services.identity.domain.enrollment_policies import (
    EVERYONE,
    Decision,
    EnrollmentPolicy,
    RuleGroup,
    Rules,
    Verdict,
    trace,
)
from guardhouse_services.identity.domain.enrollment_policies import evaluate as evaluate_rules
from guardhouse_services.identity.messages import policy_traces

ANY_TOKEN = Rule(RuleKind.ANY_SERVICE_TOKEN)
ADA = Identity(email="Ada@Example.com", groups=("Ops", "on-call"))
ROBOT = Identity(service_token_id="svt_1")


def evaluate(policies: list[EnrollmentPolicy], who: Identity, client: Client = NOWHERE) -> Verdict:
    return evaluate_rules(Rules.of(policies), who, client)


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
    assert not evaluate([policy(domain("example.com"))], Identity(email='"x@example.com"@evil.org')).admitted
    assert not evaluate([policy(domain("example.com"))], Identity(email="ada@example.com.evil.org")).admitted
    assert not evaluate([policy(domain("example.com"))], Identity(email="example.com")).admitted


def test_a_letter_that_only_looks_like_ascii_is_another() -> None:
    """The Kelvin sign's lower case is a k, and it is somebody else's domain."""
    assert not evaluate([policy(domain("slack.com"))], Identity(email="eve@slac\u212a.com")).admitted


def test_without_a_verified_address_no_rule_about_addresses_matches() -> None:
    """Decision 1."""
    nobody = Identity(groups=("Ops",))
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
    rules: dict[str, tuple[Rule, ...]] = {"include": (EVERYONE,), "require": (), "exclude": ()}
    rules[place] = (EVERYONE, rule)
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


def sso(provider: str, *, claims: tuple[str, ...] = (), methods: tuple[str, ...] = ()) -> Identity:
    return Identity(email="ada@example.com", claims=claims, identity_provider_id=provider, methods=methods)


HERE = Client.of("192.0.2.7", "de")


@pytest.mark.parametrize(
    ("kind", "value", "who", "client", "matches"),
    [
        (RuleKind.LOGIN_METHOD, "idp_1", sso("idp_1"), NOWHERE, True),
        (RuleKind.LOGIN_METHOD, "idp_1", sso("idp_2"), NOWHERE, False),
        (RuleKind.OIDC_CLAIM, "level=7", sso("", claims=("level=7",)), NOWHERE, True),
        (RuleKind.OIDC_CLAIM, "level=7", sso("", claims=("level=70",)), NOWHERE, False),
        (RuleKind.AUTH_METHOD, "hwk", sso("", methods=("pwd", "hwk")), NOWHERE, True),
        (RuleKind.AUTH_METHOD, "hwk", sso("", methods=("pwd",)), NOWHERE, False),
        (RuleKind.IP_RANGE, "192.0.2.0/24", ADA, HERE, True),
        (RuleKind.IP_RANGE, "192.0.2.0/24", ADA, Client.of("::ffff:192.0.2.7", ""), True),
        (RuleKind.IP_RANGE, "198.51.100.0/24", ADA, HERE, False),
        (RuleKind.IP_RANGE, "0.0.0.0/0", ADA, NOWHERE, False),
        (RuleKind.COUNTRY, "DE", ADA, HERE, True),
        (RuleKind.COUNTRY, "FR", ADA, HERE, False),
        (RuleKind.COUNTRY, "DE", ADA, NOWHERE, False),
    ],
)
def test_a_rule_about_how_and_where(kind: RuleKind, value: str, who: Identity, client: Client, matches: bool) -> None:
    """Decision 12: what is not known does not match."""
    assert evaluate([policy(Rule(kind, value))], who, client).admitted == matches


def test_a_policy_is_met_by_whoever_is_in_its_rule_group() -> None:
    """Decision 12: a group has include, require and exclude of its own."""
    staff = RuleGroup("rgp_1", "Staff", (domain("example.com"),), (group("Ops"),), (email("eve@example.com"),))
    rules = Rules.of([policy(Rule(RuleKind.RULE_GROUP, "rgp_1"))], [staff])
    assert evaluate_rules(rules, ADA).admitted
    assert not evaluate_rules(rules, Identity(email="bob@example.com")).admitted
    assert not evaluate_rules(rules, Identity(email="eve@example.com", groups=("Ops",))).admitted
    excluding = Rules.of([policy(EVERYONE, exclude=(Rule(RuleKind.RULE_GROUP, "rgp_1"),))], [staff])
    assert [evaluate_rules(excluding, who).admitted for who in (ADA, Identity())] == [False, True]


def test_a_trace_says_what_every_rule_was_compared_with() -> None:
    """Decision 12: of the policies behind the one that decides as well."""
    staff = RuleGroup("rgp_1", "Staff", (domain("example.org"),))
    rules = Rules.of(
        [
            policy(ANY_TOKEN, decision=Decision.SERVICE_AUTH, precedence=9),
            policy(
                Rule(RuleKind.RULE_GROUP, "rgp_1"), group("Ops"), precedence=1, require=(Rule(RuleKind.COUNTRY, "FR"),)
            ),
            policy(EVERYONE, precedence=2, exclude=(Rule(RuleKind.IP_RANGE, "10.0.0.0/8"),)),
            policy(EVERYONE, decision=Decision.BLOCK, precedence=3),
        ],
        [staff],
    )
    machines, french, everyone, block = trace(rules, ADA, HERE)
    assert (machines.mismatch, machines.rules, machines.decides) == ("it is for service tokens", (), False)
    assert (french.mismatch, french.decides) == ("it requires country FR", False)
    assert [(step.place, step.matched, step.finding) for step in french.rules] == [
        ("include[0]", False, "not in 'Staff': none of its include rules matches"),
        ("include[1]", True, "the groups are Ops, on-call"),
        ("require[0]", False, "the country is DE"),
    ]
    assert (everyone.mismatch, everyone.decides) == ("", True)
    assert everyone.rules[1].finding == "the address is 192.0.2.7"
    assert (block.mismatch, block.decides) == ("", False)
    assert evaluate_rules(rules, ADA, HERE).enrollment_policy_id == everyone.policy.enrollment_policy_id


def test_a_trace_fits_an_answer() -> None:
    """I-34: every policy is told, and as many rules as there is room for."""
    claims = tuple(Rule(RuleKind.OIDC_CLAIM, f"{number}={'x' * 900}") for number in range(1000))
    rules = Rules.of(policy(*claims, precedence=number) for number in range(1, 6))
    told = policy_traces(trace(rules, ADA))
    assert len(told) == 5
    assert (told[0].rules_omitted, told[4].rules_omitted, len(told[4].rules)) == (0, 1000, 0)
    assert 0 < told[2].rules_omitted < 1000
    assert sum(step.ByteSize() for step in told) < 3 << 20


def test_whoever_is_refused_at_best_is_refused_wherever_and_however() -> None:
    """Decision 13: a rule about a sign-in that nobody has seen yet neither admits nor refuses for good."""
    office = Rule(RuleKind.IP_RANGE, "192.0.2.0/24")
    abroad = RuleGroup("rgp_1", "Abroad", (Rule(RuleKind.COUNTRY, "FR"),))
    travelling = Rule(RuleKind.RULE_GROUP, "rgp_1")

    def stranded(*policies: EnrollmentPolicy) -> bool:
        return not evaluate_rules(Rules.of(policies, [abroad]).at_best(), ADA).admitted

    block = Decision.BLOCK
    assert not stranded(policy(office))
    assert not stranded(policy(EVERYONE, require=(office,), exclude=(travelling,)))
    assert not stranded(policy(office, decision=block, precedence=1), policy(EVERYONE))
    assert not stranded(policy(EVERYONE, decision=block, precedence=1, require=(travelling,)), policy(EVERYONE))
    assert not stranded(policy(EVERYONE, decision=block, precedence=1, exclude=(office,)), policy(EVERYONE))
    assert stranded(policy(office, require=(group("admins"),)))
    assert stranded(policy(EVERYONE, decision=block, precedence=1), policy(office))
