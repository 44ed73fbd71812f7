"""docs/methods.md names every method of the contract, and none besides."""

import re
from pathlib import Path

from guardhouse.identity.v1 import identity_pb2
from guardhouse.ipam.v1 import ipam_pb2
from guardhouse.registry.v1 import registry_pb2
from guardhouse.session.v1 import session_pb2

DOCUMENT = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()


def test_the_table_has_every_method_of_the_descriptors() -> None:
    """Contracts: what answers can be seen, with who may call it."""
    found = set()
    for contract in re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]:
        package = contract.split()[0]
        for service in re.split(r"^### ", contract, flags=re.MULTILINE)[1:]:
            rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", service, re.MULTILINE)
            found |= {(package, service.split()[0], name) for name, *_ in rows}
            assert all(what and callers != "-" and repeated != "-" for _, what, callers, repeated in rows)
    contracts = {"identity": identity_pb2, "registry": registry_pb2, "ipam": ipam_pb2, "session": session_pb2}
    assert found == {
        (package, service.name, method.name)
        for package, contract in contracts.items()
        for service in contract.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
