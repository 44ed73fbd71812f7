"""`guardhouse policies import` and `export`: Terraform's files against what is there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guardhouse.errors import InvalidField, ListNotFound, PolicyNotFound, PrecedenceTaken, StateStale
from guardhouse.session.v1 import session_pb2 as pb
from tests.guardhouse.cli.commands import Run, RunPlane, words
from tests.guardhouse.scripted import ScriptedServer

# As client-sessions has it, with the list that it refers to.
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

resource "cloudflare_zero_trust_list" "wiki_IPs" {
  account_id = var.cloudflare_account_id
  name       = "wiki_IPs"
  type       = "IP"
  items      = [{ value = "10.1.0.0/16" }]
}
"""
SECOND = """
resource "cloudflare_zero_trust_gateway_policy" "block" {
  name       = "Block"
  enabled    = true
  action     = "block"
  filters    = ["http"]
  precedence = 104
  identity   = "identity.email == \\"eve@example.com\\""
  rule_settings = { block_page_enabled = true }
}
"""


class Store:
    """Policies and lists as the service keeps them: names and precedences are unique, ids are remembered."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.policies: dict[str, pb.Policy] = {}
        self.lists: dict[str, pb.List] = {}
        self.repeated: dict[str, Any] = {}
        server.answers["ListPolicies"] = lambda _: pb.ListPoliciesResponse(policies=self.policies.values())
        server.answers["ListLists"] = self.list_lists
        server.answers["GetList"] = lambda it: pb.GetListResponse(list=self.found(self.lists, it.list_id, ListNotFound))
        server.answers["GetPolicy"] = lambda it: pb.GetPolicyResponse(
            policy=self.found(self.policies, it.policy_id, PolicyNotFound)
        )
        server.answers["CreateList"] = self.once(self.create_list)
        server.answers["CreatePolicy"] = self.once(self.create_policy)
        server.answers["UpdateList"] = self.update_list
        server.answers["UpdatePolicy"] = self.update_policy
        server.answers["ReorderPolicies"] = self.reorder

    def once(self, create: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def answer(request: Any) -> Any:
            if request.request_id not in self.repeated:
                self.repeated[request.request_id] = create(request)
            return self.repeated[request.request_id]

        return answer

    def found(self, there: Any, key: str, missing: Any) -> Any:
        if key not in there:
            raise missing(key)
        return there[key]

    def list_lists(self, _: Any) -> pb.ListListsResponse:
        answer = pb.ListListsResponse(lists=self.lists.values())
        for each in answer.lists:
            each.ClearField("values")
            each.ClearField("etag")
        return answer

    def create_list(self, request: Any) -> pb.CreateListResponse:
        made = pb.List(list_id=f"lst_{len(self.repeated)}", etag="1")
        made.MergeFrom(request.list)
        self.lists[made.list_id] = made
        return pb.CreateListResponse(list=made)

    def create_policy(self, request: Any) -> pb.CreatePolicyResponse:
        self.check(request.policy)
        made = pb.Policy(policy_id=f"pol_{len(self.repeated)}", etag="1")
        made.MergeFrom(request.policy)
        self.policies[made.policy_id] = made
        warning = pb.PolicyWarning(field="identity", column=24, message="it is not anchored at its end")
        return pb.CreatePolicyResponse(policy=made, warnings=[warning] if "matches" in made.identity else [])

    def update_list(self, request: Any) -> pb.UpdateListResponse:
        there = self.lists[request.list.list_id]
        assert request.list.etag == there.etag
        there.ClearField("values")
        request.update_mask.MergeMessage(request.list, there)
        return pb.UpdateListResponse(list=there)

    def update_policy(self, request: Any) -> pb.UpdatePolicyResponse:
        there = self.policies[request.policy.policy_id]
        assert request.policy.etag == there.etag
        self.check(request.policy)
        request.update_mask.MergeMessage(request.policy, there, True)
        there.etag += "1"
        return pb.UpdatePolicyResponse(policy=there)

    def reorder(self, request: Any) -> pb.ReorderPoliciesResponse:
        ordered = [self.policies[policy_id] for policy_id in request.policy_ids]
        for policy, precedence in zip(ordered, sorted(each.precedence for each in ordered), strict=True):
            policy.precedence, policy.etag = precedence, policy.etag + "r"
        return pb.ReorderPoliciesResponse(policies=ordered)

    def check(self, policy: pb.Policy) -> None:
        if "nonsense" in policy.traffic:
            raise InvalidField("policy.traffic", "column 1: there is no field nonsense")
        for each in self.policies.values():
            if each.policy_id != policy.policy_id and each.precedence == policy.precedence:
                raise PrecedenceTaken(f"{each.precedence} is taken")

    def precedences(self) -> dict[str, int]:
        return {each.display_name: each.precedence for each in self.policies.values()}

    def written(self) -> list[str]:
        return [call.method for call in self.server.calls if call.method.startswith(("Create", "Update", "Reorder"))]


@pytest.fixture
def store(installation: ScriptedServer) -> Store:
    return Store(installation)


@pytest.fixture
def file(tmp_path: Path, run: Run) -> Callable[[str], None]:
    def write(text: str) -> None:
        (tmp_path / "policies.tf").write_text(text)

    return write


def test_the_example_is_made_with_its_list_first(run: Run, store: Store, file: Callable[[str], None]) -> None:
    file(SEED + SECOND)
    said = run("policies import policies.tf").stdout
    assert store.written() == ["CreateList", "CreatePolicy", "CreatePolicy"]
    (wiki,) = store.lists.values()
    assert (wiki.name, list(wiki.values)) == ("wiki_IPs", ["10.1.0.0/16"])
    assert store.precedences() == {"Company Wiki Network policy": 103, "Block": 104}
    assert next(iter(store.policies.values())).traffic == "net.dst.ip in $wiki_IPs"
    assert said.count("created") == 3
    for text in ("rule_settings.block_page_enabled", "account_id", "not anchored at its end"):
        assert text in said


def test_the_same_file_again_changes_nothing(run: Run, store: Store, file: Callable[[str], None]) -> None:
    file(SEED + SECOND)
    run("policies import policies.tf")
    there = len(store.written())
    assert run("policies import policies.tf").stdout.count("unchanged") == 3
    assert run("policies import policies.tf --replace").stdout.count("unchanged") == 3
    assert len(store.written()) == there


def test_what_would_be_made_can_be_seen_before(run: Run, store: Store) -> None:
    seen = run("policies import - --dry-run", stdin=SEED + SECOND)
    assert seen.stdout.count(" create ") == 3
    assert "block_page_enabled" in seen.stdout
    assert "Nothing was changed" in seen.stderr
    answer = json.loads(run("--json policies import - --dry-run", stdin=SEED).stdout)
    assert answer["policies"][0]["policy"]["check_session"] == {"enforce": True, "duration": "1h30m0s"}
    assert [answer[kind][0]["outcome"] for kind in ("lists", "policies")] == ["create", "create"]
    assert answer["notes"] == [
        {
            "resource": "",
            "attribute": "account_id",
            "message": "passed over: everything goes to one organization",
            "left_out": False,
        }
    ]
    assert not store.written()


def test_what_cannot_be_mapped_is_said_and_the_rest_is_made(run: Run, store: Store) -> None:
    said = run("policies import -", stdin=SEED + SECOND.replace('"block"\n  f', '"isolate"\n  f'), exit_code=1).stdout
    assert [each.display_name for each in store.policies.values()] == ["Company Wiki Network policy"]
    assert "the action 'isolate' has no counterpart" in said


def test_a_policy_of_the_same_name_stays_unless_it_is_to_be_replaced(run: Run, store: Store) -> None:
    run("policies import -", stdin=SEED)
    (policy,) = store.policies.values()
    policy.staleness.mode = pb.STALENESS_MODE_CLOSED
    shorter = SEED.replace("1h30m0s", "30m").replace("  identity", "# identity").replace("  precedence", "# precedence")
    assert "skip" in run("policies import -", stdin=shorter).stdout
    assert policy.check_session.duration == "1h30m0s"
    assert "replaced" in run("policies import - --replace", stdin=shorter).stdout
    assert (policy.check_session.duration, policy.identity) == ("30m0s", "")
    # What the file does not say stays.
    assert policy.precedence == 103
    assert policy.HasField("staleness")


def test_a_list_of_the_same_name_is_never_changed_unasked(run: Run, store: Store) -> None:
    """Policies that nobody named would cover something else."""
    run("policies import -", stdin=SEED)
    other = SEED.replace("10.1.0.0/16", "10.2.0.0/16") + SECOND
    said = run("policies import -", stdin=other, exit_code=1).stderr
    assert "there is already a list 'wiki_IPs' with other values; --replace gives it those of the file" in said
    assert len(store.policies) == 1
    run("policies import - --replace", stdin=other)
    assert [list(each.values) for each in store.lists.values()] == [["10.2.0.0/16"]]
    other_type = SEED.replace('"IP"', '"DOMAIN"')
    assert "of another type" in run("policies import - --replace", stdin=other_type, exit_code=1).stderr


def test_what_the_server_refuses_is_said_by_resource_and_attribute(run: Run, store: Store) -> None:
    said = run("policies import -", stdin=SEED.replace("net.dst.ip in", "nonsense in") + SECOND, exit_code=1).stdout
    assert store.precedences() == {"Block": 104}
    assert words(said).count("traffic yes column 1: there is no field nonsense") == 1
    taken = SEED.replace("103", "104")
    assert "104 is taken" in run("policies import -", stdin=taken, exit_code=1).stdout


def test_an_error_on_the_way_says_how_far_it_came(run: Run, store: Store) -> None:
    store.server.answers["CreatePolicy"] = StateStale("it is behind")
    said = run("policies import -", stdin=SEED, exit_code=1).stderr
    assert "1 of 2 were done, and cloudflare_zero_trust_gateway_policy.network_allow_wiki_IPs was not" in said


def test_policies_may_change_places(run: Run, store: Store) -> None:
    run("policies import -", stdin=SEED + SECOND)
    swapped = (SEED + SECOND).replace("103", "105").replace("104", "103").replace("105", "104")
    run("policies import - --replace", stdin=swapped)
    assert store.precedences() == {"Company Wiki Network policy": 104, "Block": 103}
    run("policies import - --replace", stdin=swapped.replace("104", "200").replace("103", "104"))
    assert store.precedences() == {"Company Wiki Network policy": 200, "Block": 104}


def test_a_repeated_import_makes_nothing_twice_and_makes_again_what_was_deleted(run: Run, store: Store) -> None:
    """The request ids of both runs are the same, so the second of two at once makes nothing (AIP-155)."""
    run("policies import -", stdin=SEED)
    first = [each.request_id for each in store.server.requests("CreatePolicy") + store.server.requests("CreateList")]
    store.policies.clear()
    store.lists.clear()
    run("policies import -", stdin=SEED)
    assert len(store.policies) == len(store.lists) == 1
    again = [each.request_id for each in store.server.requests("CreatePolicy") + store.server.requests("CreateList")]
    assert all(len(each) == 64 for each in first)
    assert [again[1], again[4]] == first
    assert len(set(again)) == 4


def test_two_of_a_name_cannot_be_replaced(run: Run, store: Store) -> None:
    for name in ("a", "b"):
        store.policies[name] = pb.Policy(policy_id=name, display_name="Block")
    assert "skip" in run("policies import -", stdin=SECOND).stdout
    assert "'Block' more than once" in run("policies import - --replace", stdin=SECOND, exit_code=1).stderr


def test_a_file_that_is_none_is_refused_before_anything_is_asked(run: Run, store: Store) -> None:
    assert "it is not HCL: line 1, column 1" in words(run("policies import -", stdin="}", exit_code=2).stderr)
    assert not store.server.calls


def test_what_is_exported_can_be_imported(run: Run, store: Store, tmp_path: Path) -> None:
    run("policies import -", stdin=SEED + SECOND)
    there = [list(store.lists.values()), list(store.policies.values())]
    text = run("policies export").stdout
    assert "2 policies and 1 list are in out.tf" in run("policies export --output out.tf").stderr
    assert (tmp_path / "out.tf").read_text() == text
    assert json.loads(run("--json policies export").stdout) == {"terraform": text, "notes": []}
    assert 'traffic     = "net.dst.ip in ${"$"}${cloudflare_zero_trust_list.wiki_IPs.id}"' in text
    assert run("policies import out.tf").stdout.count("unchanged") == 3
    assert [list(store.lists.values()), list(store.policies.values())] == there


async def test_the_example_comes_back_from_a_real_server(run_plane: RunPlane) -> None:
    await run_plane("policies import -", stdin=SEED + SECOND)
    exported = (await run_plane("policies export")).stdout
    assert 'traffic     = "net.dst.ip in ${"$"}${cloudflare_zero_trust_list.wiki_IPs.id}"' in exported
    again = json.loads((await run_plane("--json policies import - --replace", stdin=exported)).stdout)
    assert [each["outcome"] for each in again["lists"] + again["policies"]] == ["unchanged"] * 3
    longer = exported.replace("1h30m0s", "8h0m0s").replace("10.1.0.0/16", "10.2.0.0/16")
    swapped = longer.replace("103", "105").replace("104", "103").replace("105", "104")
    assert (await run_plane("policies import - --replace", stdin=swapped)).stdout.count("replaced") == 3
    assert (await run_plane("policies export")).stdout.count("8h0m0s") == 1
