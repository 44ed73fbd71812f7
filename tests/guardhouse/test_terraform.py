"""Reading and writing Terraform: what maps, what is said of the rest, and what a hostile file can do."""

import json
from typing import Any

import pytest

from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.terraform import MAX_SIZE, Import, TerraformInvalid, parse, read, write
from guardhouse.terraform.resources import MAX_HCL

# To the letter as client-sessions has it.
SEED = r"""
resource "cloudflare_zero_trust_gateway_policy" "network_allow_wiki_IPs" {
  name        = "Company Wiki Network policy"
  enabled     = true
  account_id  = var.cloudflare_account_id
  description = "Managed by Terraform - Allow employees to access company wiki IPs."
  precedence  = 103
  action      = "allow"
  filters     = ["l4"]
  traffic     = "net.dst.ip in ${"$"}${cloudflare_zero_trust_list.wiki_IPs.id}"
  identity    = "identity.email matches \".*@example.com\""
  rule_settings = {
    check_session = {
      enforce = true
      duration = "1h30m0s"
    }
  }
}
"""
LIST = """
resource "cloudflare_zero_trust_list" "wiki_IPs" {
  account_id = var.cloudflare_account_id
  name       = "Company wiki IPs"
  type       = "IP"
  items      = [{ value = "10.1.0.0/16" }, { value = "10.2.0.1" }]
}
"""
SEED_POLICY = pb.Policy(
    display_name="Company Wiki Network policy",
    description="Managed by Terraform - Allow employees to access company wiki IPs.",
    enabled=True,
    filter=pb.POLICY_FILTER_L4,
    action=pb.POLICY_ACTION_ALLOW,
    precedence=103,
    traffic="net.dst.ip in $wiki_IPs",
    identity='identity.email matches ".*@example.com"',
    check_session=pb.CheckSession(enforce=True, duration="1h30m0s"),
)
P = "cloudflare_zero_trust_gateway_policy"
L = "cloudflare_zero_trust_list"


def of(text: str, *existing: str) -> Import:
    return read(parse(text.encode()), existing)


def policy(more: str = "", *, label: str = "p", **attributes: str) -> str:
    """HCL of a policy, each attribute as it stands there."""
    values = {"name": f'"{label}"', "enabled": "true", "action": '"allow"', "filters": '["http"]'} | attributes
    lines = "\n".join(f"  {name} = {value}" for name, value in values.items())
    return f'resource "{P}" "{label}" {{\n{lines}\n{more}\n}}\n'


def one(found: Import) -> pb.Policy:
    assert not [note for note in found.notes if note.left_out]
    ((_, only),) = found.policies
    return only


def shown(*resources: dict[str, Any], **document: Any) -> str:
    """What `terraform show -json` prints of a state."""
    return json.dumps({"format_version": "1.0", "values": {"root_module": {"resources": list(resources)}}, **document})


def resource(kind: str, label: str, **values: Any) -> dict[str, Any]:
    return {"address": f"{kind}.{label}", "mode": "managed", "type": kind, "name": label, "values": values}


def test_the_example_of_client_sessions_is_read_to_the_letter() -> None:
    found = of(LIST + SEED)
    assert found.policies == [(f"{P}.network_allow_wiki_IPs", SEED_POLICY)]
    wiki = pb.List(name="wiki_IPs", type=pb.LIST_TYPE_IP, values=["10.1.0.0/16", "10.2.0.1"])
    assert found.lists == [(f"{L}.wiki_IPs", wiki)]
    assert [(note.attribute, note.left_out) for note in found.notes] == [("name", False), ("account_id", False)]


def test_a_list_that_is_not_in_the_file_must_be_there_already() -> None:
    assert of(SEED, "wiki_IPs").policies == of(LIST + SEED).policies
    (note, _) = of(SEED).notes
    assert (note.resource, note.attribute, note.left_out) == (f"{P}.network_allow_wiki_IPs", "traffic", True)


def test_blocks_of_older_providers_and_heredocs_are_read_as_well() -> None:
    text = policy(
        """
  traffic = <<-EOT
    net.dst.ip in ${"$"}${cloudflare_zero_trust_list.wiki_IPs.id}
      and net.dst.port == 443
  EOT
  rule_settings {
    check_session {
      enforce = true
      duration = "90m"
    }
  }
""",
        filters='["l4"]',
    )
    found = one(of(text, "wiki_IPs"))
    assert found.traffic.split("\n") == ["net.dst.ip in $wiki_IPs", "  and net.dst.port == 443", ""]
    assert found.check_session == pb.CheckSession(enforce=True, duration="1h30m0s")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r'"a \"b\" \\. \n \u00e9"', 'a "b" \\. \n \u00e9'),
        ('"$${lit} %%{if} $5 100% $"', "${lit} %{if} $5 100% $"),
        ('"${"a"}${1}${true}"', "a1true"),
    ],
)
def test_texts_mean_what_they_mean_to_terraform(written: str, text: str) -> None:
    assert one(of(policy(description=written))).description == text


def test_a_dollar_in_a_text_of_an_expression_names_no_list() -> None:
    found = one(
        of(policy(traffic=r'"http.request.host matches \"^(a|b)$x$\" or http.request.host in $hosts"'), "hosts")
    )
    assert found.traffic == 'http.request.host matches "^(a|b)$x$" or http.request.host in $hosts'


def test_an_escape_that_was_not_needed_still_names_the_list() -> None:
    assert one(of(policy(traffic=f'"x in $${{{L}.wiki_IPs.id}}"'), "wiki_IPs")).traffic == "x in $wiki_IPs"


def test_what_terraform_shows_of_a_state_has_the_lists_by_their_ids() -> None:
    uuid = "0f1c2d3e-aaaa-bbbb-cccc-0123456789ab"
    values = {
        "id": "1",
        "name": "Mail",
        "enabled": True,
        "action": "block",
        "filters": ["dns"],
        "precedence": 7,
        "version": 3,
        "identity": "",
        "rule_settings": {"check_session": None},
        "traffic": f"any(dns.domains[*] in ${uuid})",
        "schedule": {"mon": "08:00-12:30", "time_zone": "Europe/Berlin", "tue": None},
        "expiration": {"expires_at": "2027-01-01T05:20:20Z", "duration": None, "expired": False},
    }
    items = [{"value": "evil.example", "description": None}]
    state = json.loads(shown(resource(L, "bad", id=uuid, name="bad-hosts", type="DOMAIN", items=items, list_count=1)))
    state["values"]["root_module"]["child_modules"] = [{"resources": [resource(P, "mail", **values)]}]
    found = of(json.dumps(state))
    (wanted,) = (each for _, each in found.policies)
    assert wanted.traffic == "any(dns.domains[*] in $bad-hosts)"
    assert wanted.schedule == pb.Schedule(monday="08:00-12:30", time_zone="Europe/Berlin")
    assert wanted.expire_time.ToJsonString() == "2027-01-01T05:20:20Z"
    assert [(each.name, each.type, list(each.values)) for _, each in found.lists] == [
        ("bad-hosts", pb.LIST_TYPE_HOST, ["evil.example"])
    ]
    assert not found.notes


@pytest.mark.parametrize("configured", [True, False])
def test_what_a_plan_does_not_know_yet_is_no_empty_condition(configured: bool) -> None:
    """Decision 29: empty is true, so a policy whose traffic is not known would cover all of it."""
    values = {"name": "wiki", "enabled": True, "action": "allow", "filters": ["l4"]}
    expressions = {"traffic": {"references": [f"{L}.wiki.id"]}} if configured else {"name": {}}
    plan = {
        "planned_values": {"root_module": {"resources": [resource(P, "wiki", **values)]}},
        "resource_changes": [{"address": f"{P}.wiki", "change": {"after_unknown": {"traffic": True, "id": True}}}],
        "configuration": {"root_module": {"resources": [{"address": f"{P}.wiki", "expressions": expressions}]}},
    }
    if configured:
        (note,) = of(json.dumps(plan)).notes
        assert (note.attribute, note.left_out) == ("traffic", True)
        assert "known only after the apply" in note.message
        del plan["configuration"]
        assert not of(json.dumps(plan)).policies
    else:
        assert one(of(json.dumps(plan))).traffic == ""


DURATION = "rule_settings.check_session.duration"
SCHEDULE = 'schedule = { mon = "08:00-12:00", time_zone = "Europe/Berlin" }'
LEFT_OUT = [
    (policy(action='"isolate"'), "action"),
    (policy(action="var.action"), "action"),
    (policy(action="upper(local.action)"), "action"),
    (policy(filters='["l4", "http"]'), "filters"),
    (policy(filters="[]"), "filters"),
    (policy(filters='["egress"]'), "filters"),
    (policy(name='""'), "name"),
    (policy(name="[1]"), "name"),
    (policy(enabled='"yes"'), "enabled"),
    (policy(precedence="0"), "precedence"),
    (policy(precedence="var.first"), "precedence"),
    (policy(traffic='"http.request.host == ${var.host}"'), "traffic"),
    (policy(traffic='"%{ if var.x }a%{ endif }"'), "traffic"),
    (policy(traffic='"http.request.host in $nowhere"'), "traffic"),
    (policy(traffic=f'"http.request.host in $${{{L}.wiki.id}}"'), "traffic"),
    (policy(identity="<<E\n${join(var.x)}\nE\n"), "identity"),
    (policy(rule_settings="var.settings"), "rule_settings"),
    (policy(rule_settings='{ check_session = { enforce = true, duration = "8d" } }'), DURATION),
    (policy(rule_settings="{ check_session = { enforce = true } }"), DURATION),
    (policy(action='"block"', rule_settings="{ check_session = { enforce = true } }"), "rule_settings.check_session"),
    (policy(filters='["dns"]', rule_settings="{ check_session = { enforce = true } }"), "rule_settings.check_session"),
    (policy(SCHEDULE), "schedule"),
    (policy(SCHEDULE.replace(', time_zone = "Europe/Berlin"', ""), filters='["dns"]'), "schedule.time_zone"),
    (policy('expiration = { expires_at = "2027-01-01T05:20:20Z" }'), "expiration"),
    (policy('expiration = { expires_at = "tomorrow" }', filters='["dns"]'), "expiration.expires_at"),
    (policy("count = 2"), "count"),
    (policy("for_each = toset([])"), "for_each"),
    (policy('dynamic "rule_settings" {\n}'), "dynamic"),
    (policy("only_if = true"), "only_if"),
    (policy(label="a", name='"x"') + policy(label="b", name='"x"'), "name"),
    (policy(label="a", precedence="5") + policy(label="b", precedence="5"), "precedence"),
    (f'resource "{L}" "l" {{\n name = "l"\n type = "LOCATION"\n}}', "type"),
    (f'resource "{L}" "l" {{\n name = "l"\n type = "IP"\n items = var.ips\n}}', "items"),
    (f'resource "{L}" "_" {{\n name = "not a name"\n type = "IP"\n}}', "name"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "attribute"), LEFT_OUT)
def test_what_cannot_be_read_in_full_is_left_out_and_said(text: str, attribute: str) -> None:
    found = of(text)
    (note,) = (note for note in found.notes if note.left_out)
    assert note.attribute == attribute
    assert note.resource.startswith("cloudflare_zero_trust_")
    assert len(found.policies) + len(found.lists) == text.count("resource ") - 1


def test_what_a_policy_can_be_made_without_is_said_as_well() -> None:
    text = policy(
        enabled="null",
        rule_settings='{ block_page_enabled = true, add_headers = {}, block_reason = "", check_session = null }',
    )
    found = of(
        text + 'resource "aws_instance" "x" {\n}\nresource "aws_instance" "y" {\n}\nmodule "m" {\n}\nlocals {\n}'
    )
    assert len(found.policies) == 1
    assert [(note.resource, note.attribute, note.left_out) for note in found.notes] == [
        (f"{P}.p", "enabled", False),
        (f"{P}.p", "rule_settings.block_page_enabled", False),
        ("aws_instance", "", False),
        ("module", "", False),
    ]


def test_lists_say_what_becomes_of_them() -> None:
    items = '[{ value = "https://a.example/x", description = "A" }, "b"]'
    found = of(f'resource "{L}" "l" {{\n name = "l"\n type = "URL"\n items = {items}\n}}')
    assert [list(each.values) for _, each in found.lists] == [["https://a.example/x", "b"]]
    assert [(note.attribute, note.left_out) for note in found.notes] == [("items", False), ("type", False)]


def test_two_lists_never_become_one() -> None:
    """The second would change what the policies of the first cover."""
    text = "".join(f'resource "{L}" "{label}" {{\n name = "same"\n type = "IP"\n}}\n' for label in ("a", "b", "same"))
    found = of(text + policy(traffic=f'"net.dst.ip in ${{"$"}}${{{L}.b.id}}"'))
    assert [each.name for _, each in found.lists] == ["same", "b"]
    assert one(Import(found.lists, found.policies, [])).traffic == "net.dst.ip in $b"


NASTY = ["a ${b} $${c} %{d}%%{e} $", '"quoted" \\ and\nlines\t\x00\x85', "$$$%{", "ends in $", "é \U0001f600 ${", "}"]
OURS = [
    SEED_POLICY,
    *(pb.Policy(display_name=text, description=text, filter=pb.POLICY_FILTER_HTTP, action=pb.POLICY_ACTION_BLOCK)
      for text in NASTY),
    pb.Policy(
        display_name="Names",
        enabled=True,
        filter=pb.POLICY_FILTER_DNS,
        action=pb.POLICY_ACTION_ALLOW,
        precedence=1,
        traffic='dns.fqdn matches "^x{2}${1}$wiki_IPs$" and any(dns.domains[*] in $9-hosts)or(dns.fqdn in $9-hosts)',
        device_posture='any(device_posture.checks.passed[*] in {"a"})',
        schedule=pb.Schedule(time_zone="Europe/Berlin", monday="08:00-12:00", sunday="00:00-24:00"),
    ),
    pb.Policy(display_name="names", filter=pb.POLICY_FILTER_HTTP, action=pb.POLICY_ACTION_ALLOW,
              check_session=pb.CheckSession(enforce=False)),
]  # fmt: skip
OURS[-2].expire_time.FromJsonString("2027-01-01T05:20:20.5Z")
OUR_LISTS = [
    pb.List(name="wiki_IPs", type=pb.LIST_TYPE_IP, values=["10.1.0.0/16"], description="a ${list}"),
    pb.List(name="9-hosts", type=pb.LIST_TYPE_HOST, values=NASTY),
    pb.List(name="ports", type=pb.LIST_TYPE_INTEGER, values=["443", "8000-8080"]),
    pb.List(name="list_9-hosts", type=pb.LIST_TYPE_EMAIL),
]


def test_what_is_exported_is_imported_as_the_same() -> None:
    exported = write(OUR_LISTS, OURS)
    found = of(exported.text)
    assert [each for _, each in found.lists] == OUR_LISTS
    assert [each for _, each in found.policies] == OURS
    assert not [note for note in found.notes if note.left_out]
    assert "$wiki_IPs$" in exported.text  # It stands in a pattern, where Terraform would put an id.
    again = write([each for _, each in found.lists], [each for _, each in found.policies])
    assert again == exported


def test_the_export_refers_to_the_lists_as_the_example_does() -> None:
    exported = write(OUR_LISTS[:1], [SEED_POLICY])
    assert 'traffic     = "net.dst.ip in ${"$"}${cloudflare_zero_trust_list.wiki_IPs.id}"' in exported.text
    lines = {line.strip() for line in SEED.splitlines()} - {'duration = "1h30m0s"', "enforce = true"}
    assert {line for line in lines if line and "resource" not in line} <= {
        line.strip() for line in exported.text.splitlines()
    }


def test_the_export_says_what_it_cannot_hold() -> None:
    stale = pb.Policy(staleness=pb.Staleness(mode=pb.STALENESS_MODE_CLOSED))
    stale.MergeFrom(SEED_POLICY)
    assert [note.attribute for note in write(OUR_LISTS[2:3], [stale]).notes] == ["type", "staleness"]
    many = pb.List(name="many", type=pb.LIST_TYPE_IP, values=["10.0.0.0/24"] * 80_000)
    assert ["split the file" in note.message for note in write([many], []).notes] == [True]
    assert write([], []).text == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x00\x01\x02\x7fELF", "it is not HCL: line 1, column 1"),
        (b'a = "\xff"', "byte 6 is not UTF-8"),
        (b"PK\x03\x04plan", "terraform show -json"),
        (b" " * (MAX_SIZE + 1), "more than 8000000 bytes"),
        (b" " * (MAX_HCL + 1), "more than 2000000 characters: split it"),
        (b'resource "a" "b" {\n a = ' + b"[" * 600 + b"]" * 600 + b"\n}", "nested too deeply"),
        (b"a {\n" * 1_100 + b"}\n" * 1_100, ""),
        (b'resource "a" "b" {\n' + b"a {\n" * 1_100 + b"}\n" * 1_101, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"values": 1' + b"0" * 5_000 + b"}", "not JSON"),
        (b'{"values": [}', "not JSON: line 1"),
        (b'{"version": 4, "resources": []}', "neither a plan nor a state"),
        (b"a = <<A\n" + b"\n" * 1_000_000, "blanks stand together"),
        (b'a = "', "it ends where something is still open"),
        (b"a = 1\n} {", "line 2, column 1"),
        (b'resource "a" "b" {\n x = "\\q"\n}', r"line 2: \q is no escape"),
        (b'resource "a" "b" {\n x = "\\ud800"\n}', "line 2"),
        (b'resource "a" "b" {\n x = "$${"\n y = "}"\n}', 'line 2: write ${"$"}{'),
        (b'resource "a" "b" {\n x = 1\n x = 2\n}', "line 3: x is set twice"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else "",
)
def test_a_hostile_file_gets_a_plain_answer(content: bytes, said: str) -> None:
    if not said:
        assert parse(content) == []
        return
    with pytest.raises(TerraformInvalid) as caught:
        parse(content)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("wrong", [None, 1, "x", [], {}, [[]], [{}], {"a": {}}, "\ud800", 1e400, True])
def test_json_of_any_shape_is_answered_with_notes(wrong: Any) -> None:
    for name in (
        "name",
        "filters",
        "traffic",
        "rule_settings",
        "precedence",
        "enabled",
        "schedule",
        "expiration",
        "id",
    ):
        values = {"name": "p", "enabled": True, "action": "allow", "filters": ["dns"]} | {name: wrong}
        found = of(shown(resource(P, "p", **values), resource(L, "l", name="l", type="IP", items=wrong)))
        assert found.notes or len(found.policies) == 1
    for document in (shown(wrong, configuration=wrong, resource_changes=wrong), shown(resource_changes=[wrong])):
        assert read(parse(document.encode("utf-8", "replace"))).policies == []
