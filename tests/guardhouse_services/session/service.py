"""The policies and lists of one replica of session, called as its listener would call them."""

import hashlib
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from guardhouse.common.v1.audit_pb2 import AuditRecord
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.access import Call
from guardhouse_services.audit import Audit
from guardhouse_services.config import Settings
from guardhouse_services.credentials import MasterKey
from guardhouse_services.database import Database
from guardhouse_services.feed import Feed
from guardhouse_services.paging import Pages
from guardhouse_services.session.servicer import SessionServicer
from guardhouse_services.session.usecases import Session, snapshot
from tests.clock import FakeClock
from tests.guardhouse_services.session import world as facts
from tests.guardhouse_services.session.world import ORGANIZATION, World

Reply = Any


class Service:
    """The policy methods of one replica, called as the listener would."""

    def __init__(self, clock: FakeClock, database: Database, world: World) -> None:
        nothing: Any = None
        session = Session(clock, database, world.directory, world.replica, nothing, nothing)
        master_key = MasterKey(bytes(32))
        self.feed = Feed(database, pb, snapshot)
        audit = Audit(clock, database, "session", pb, master_key, Settings())
        self.servicer = SessionServicer(clock, session, Pages(master_key), self.feed, audit)
        self.database = database
        self.world = world

    async def __call__(self, request: Message, request_id: str = "") -> Reply:
        body = request.SerializeToString(deterministic=True)
        method = type(request).__name__.removesuffix("Request")
        organization_id: str = request.organization_id  # type: ignore[attr-defined]
        made: Call = facts.call(method, request_id, hashlib.sha256(body).digest(), organization_id)
        return await getattr(self.servicer, method)(request, made)

    async def create(self, request_id: str = "", organization_id: str = ORGANIZATION, **fields: Any) -> Reply:
        request = pb.CreatePolicyRequest(organization_id=organization_id, policy=wanted(**fields))
        return await self(request, request_id)

    async def update(self, policy_id: str, *paths: str, request_id: str = "", **fields: Any) -> Reply:
        request = pb.UpdatePolicyRequest(
            organization_id=ORGANIZATION,
            policy=pb.Policy(policy_id=policy_id, **fields),
            update_mask=FieldMask(paths=paths),
        )
        return await self(request, request_id)

    async def delete(
        self, policy_id: str, request_id: str = "", organization_id: str = ORGANIZATION, **fields: Any
    ) -> Reply:
        request = pb.DeletePolicyRequest(organization_id=organization_id, policy_id=policy_id, **fields)
        return await self(request, request_id)

    async def get(self, policy_id: str, organization_id: str = ORGANIZATION) -> pb.Policy:
        reply = await self(pb.GetPolicyRequest(organization_id=organization_id, policy_id=policy_id))
        found: pb.Policy = reply.policy
        return found

    async def names(self) -> list[str]:
        reply = await self(pb.ListPoliciesRequest(organization_id=ORGANIZATION))
        return [policy.display_name for policy in reply.policies]

    async def records(self) -> list[AuditRecord]:
        return list((await self(pb.ListAuditRecordsRequest(organization_id=ORGANIZATION))).records)

    async def revision(self) -> int:
        return await self.database.read(lambda tx: tx.revision(ORGANIZATION))


def wanted(**fields: Any) -> pb.Policy:
    values = {
        "display_name": "Intranet",
        "enabled": True,
        "filter": pb.POLICY_FILTER_L4,
        "action": pb.POLICY_ACTION_ALLOW,
    }
    return pb.Policy(**{**values, **fields})
