"""The network of `make demo-network`, each part of it in a network of its own.

    the control plane, in this process's own network ── 192.0.2.0/24 ──┬── a laptop
                                                                       ├── a desk
                                                                       └── the gateway ── 198.51.100.0/24 ── web

The laptop and the desk reach the web server, and each other, through their tunnels to the gateway.
"""

import base64
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from google.protobuf.field_mask_pb2 import FieldMask

import guardhouse
from demo import namespaces
from demo.__main__ import Differs, said
from demo.envoy import Network
from demo.envoy_proxy import Envoy, Places, configuration
from demo.envoy_upstream import Upstream
from demo.issuer import Issuer, Person
from demo.namespaces import Namespace, join, run
from demo.plane import ControlPlane
from guardhouse.gateway.uapi import FOLDER
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.profile import Profile
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session

ALICE, BOB, CAROL = (f"{name}@example.com" for name in ("alice", "bob", "carol"))
PEOPLE: Final = (ALICE, BOB, CAROL)
SHORT: Final = 8
"""Seconds of the session timeout."""
SECONDS: Final = 20.0
"""How long anything may take that nobody says is done."""
STALENESS: Final = "30s"
HEARTBEAT: Final = "3s"
"""How often an agent asks what has become of it: a minute, unless somebody watches."""
KEEPALIVE: Final = 25
WG_PORT: Final = 51820
# Of the networks for documentation (RFC 5737), which nobody's are.
PLANE, GATEWAY, LAPTOP, DESK, WEB_OUTSIDE = (f"192.0.2.{number}" for number in range(1, 6))
GATEWAY_INSIDE, WEB, INSIDE = "198.51.100.1", "198.51.100.2", "198.51.100.0/24"
VIRTUAL: Final = "100.96.0.0/12"
HOST: Final = "wiki.example.com"
COMMAND: Final = str(Path(sys.executable).with_name("guardhouse"))


class Machine:
    """A device, with `guardhouse agent` on it as docs/agent.md starts it."""

    def __init__(self, at: Namespace, name: str, interface: str, profile: Path, folder: Path) -> None:
        self.at = at
        self.name = name
        self.log = folder / f"{name}.log"
        self._interface = interface
        self._profile = profile
        self._state = folder / name
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._tunnel = ExitStack()
        self._tunnel.enter_context(self.at.wireguard(self._interface))
        return self

    def __exit__(self, *_: object) -> None:
        with self._tunnel, self._stack:
            pass
        forget(self._interface)

    def start(self, *options: str) -> None:
        command = [COMMAND, "--profile", str(self._profile), "agent", "run", "--interface", self._interface]
        command += ["--state", str(self._state), "--hardware-id", self.at.name, "--heartbeat", HEARTBEAT]
        self._stack.enter_context(self.at.running(*command, *options, log=self.log))
        until(f"the agent of {self.name} listens", lambda: namespaces.answers(self._state / "agent.sock"))

    def stop(self) -> None:
        self._stack.close()

    def shake_hands(self) -> None:
        """Makes a new handshake at once, where WireGuard would wait for 15 s before it doubts the old one."""
        key, networks = self.at.run("wg", "show", self._interface, "allowed-ips").split(maxsplit=1)
        _, endpoint = self.at.run("wg", "show", self._interface, "endpoints").split()
        peer = ["wg", "set", self._interface, "peer", key]
        self.at.run(*peer, "remove")
        allowed = ["allowed-ips", ",".join(networks.split())]
        self.at.run(*peer, "endpoint", endpoint, "persistent-keepalive", str(KEEPALIVE), *allowed)

    def tell(self, event: str, *options: str, text: str = "") -> Any:
        """What happens on it, and what its agent answers to that."""
        command = [COMMAND, "--json", "agent", "tell", event, "--state", str(self._state)]
        return json.loads(self.at.run(*command, *options, text=text))

    def sign_in(self, id_token: str, *options: str) -> None:
        self.tell("sign-in", "--id-token-file", "-", *options, text=id_token)

    def status(self) -> dict[str, Any]:
        """How its agent is."""
        command = self.at.command(COMMAND, "--json", "agent", "status", "--state", str(self._state))
        # It exits with 1 where something is wrong.
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        found: dict[str, Any] = json.loads(said.stdout)
        return found

    def current(self, but: str = "") -> str:
        """The registration that it connects with, as soon as it has one that is not this."""
        found: list[str] = []

        def has_one() -> bool:
            ids = [of["registration_id"] for of in self.status()["registrations"] if of["current"]]
            found[:] = [it for it in ids if it != but]
            return bool(found)

        until(f"{self.name} is registered", has_one)
        return found[0]

    def until_it_is(self, registration: registry.Registration) -> None:
        """Its tunnel changes hands a moment after its agent has been told."""
        address = f" {registration.ipv4}/32 "
        shown = ["-oneline", "address", "show", "dev", self._interface]
        until(f"{self.name} has the address {registration.ipv4}", lambda: address in self.at.ip(*shown))

    def until_told(self, part: str) -> str:
        """What its agent says of itself, as soon as this is in it."""
        said = [""]

        def says_so() -> bool:
            said[0] = str(self.status()["sentence"])
            return part in said[0]

        until(f"the agent of {self.name} says {part!r}", says_so)
        return said[0]


class Gateway:
    """WireGuard in user space with `guardhouse gateway wireguard` beside it, as docs/gateway.md starts them."""

    def __init__(self, at: Namespace, interface: str, profile: Path, folder: Path) -> None:
        self.at = at
        self.log = folder / "gateway.log"
        self._interface = interface
        self._profile = profile
        self._key = folder / "gateway.wg"
        self._key.touch(mode=0o600)
        self._key.write_text(run("wg", "genkey"))
        self.public_key = run("wg", "pubkey", text=self._key.read_text()).strip()
        self._tunnel, self._keeper = ExitStack(), ExitStack()

    def __enter__(self) -> Self:
        self.raise_tunnel()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._tunnel, self._keeper:
            pass
        forget(self._interface)

    def raise_tunnel(self) -> None:
        name = self._interface
        self._wireguard = self._tunnel.enter_context(self.at.wireguard(name))
        self.at.run("wg", "set", name, "listen-port", str(WG_PORT), "private-key", str(self._key))
        self.at.ip("link", "set", name, "mtu", "1420", "up")
        for network in (VIRTUAL, "fd00::/8"):
            self.at.ip("route", "add", network, "dev", name)

    def start(self, *options: str) -> None:
        command = [COMMAND, "--profile", str(self._profile), "gateway", "wireguard", "--interface", self._interface]
        command += ["--name", "edge", "--max-staleness", STALENESS]
        self._process = self._keeper.enter_context(self.at.running(*command, *options, log=self.log))

    def stop(self) -> None:
        self._keeper.close()

    def kill(self) -> None:
        """As a crash of what keeps the peers does it."""
        self._process.kill()
        self._keeper.close()

    def kill_tunnel(self) -> None:
        self._wireguard.kill()
        self._tunnel.close()

    def peers(self) -> int:
        return len(self.at.run("wg", "show", self._interface, "peers").splitlines())

    def has(self, public_key: bytes) -> bool:
        return base64.b64encode(public_key).decode() in self.at.run("wg", "show", self._interface, "peers")


class Site:
    """Everything of the demonstration, made and taken down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make(self) -> None:
        made = self._stack.enter_context
        self.issuer = made(Issuer([Person(email, email.partition("@")[0].title()) for email in PEOPLE]))
        gateway, web, laptop, desk = (made(Namespace(name)) for name in ("gateway", "web", "laptop", "desk"))
        self.web_at = web
        self._cables(gateway, web, laptop, desk)
        self.plane = made(ControlPlane(self.folder, GUARDHOUSE_HOST=PLANE, GUARDHOUSE_NAMES=HOST))
        self.client = made(guardhouse.connect(self.plane.profile))
        self.network = Network(self.client, self.issuer)
        self._policies()
        interface = f"gh{os.getpid()}"
        self.gateway = self._gateway(gateway, f"{interface}g")
        self.laptop = self._machine(laptop, "laptop", f"{interface}l")
        self.desk = self._machine(desk, "desk", f"{interface}d")
        with web.entered():
            upstream = made(Upstream())
        places = Places(
            self.plane.var / "tls",
            self.plane.port_base + 4,
            upstream.web_port,
            upstream.echo_port,
            plane=PLANE,
            admin=WEB_OUTSIDE,
            listen=WEB,
        )
        config = configuration(places, passed_on=False)
        self.envoy = made(Envoy(self.folder / "envoy", config, self.network.gateway_key(), web.command()))

    @property
    def logs(self) -> list[Path]:
        names = ("server.log", "gateway.log", "laptop.log", "desk.log", "envoy/envoy.log")
        return [path for path in (self.folder / name for name in names) if path.exists()]

    def _cables(self, gateway: Namespace, web: Namespace, laptop: Namespace, desk: Namespace) -> None:
        run("ip", "link", "add", "outside", "type", "bridge")
        run("ip", "addr", "add", f"{PLANE}/24", "dev", "outside")
        run("ip", "link", "set", "outside", "up")
        for at, address in ((gateway, GATEWAY), (web, WEB_OUTSIDE), (laptop, LAPTOP), (desk, DESK)):
            port = f"to-{address.rpartition('.')[2]}"
            join(at, "outside", f"{address}/24", None, port)
            run("ip", "link", "set", port, "master", "outside", "up")
        join(web, "inside", f"{WEB}/24", gateway, "inside")
        gateway.ip("addr", "add", f"{GATEWAY_INSIDE}/24", "dev", "inside")
        gateway.ip("link", "set", "inside", "up")
        web.ip("route", "add", VIRTUAL, "via", GATEWAY_INSIDE)
        gateway.forward()

    def _policies(self) -> None:
        allow, http = session.POLICY_ACTION_ALLOW, session.POLICY_FILTER_HTTP
        self.network.policy("Payroll", http, allow, 'http.request.uri.path matches "^/payroll"', f"{SHORT}s")
        self.network.policy("Wiki", http, allow, f'http.request.host == "{HOST}"')
        self.client.organizations.UpdateOrganization(
            identity.UpdateOrganizationRequest(
                organization_id=self.network.organization_id,
                organization=identity.Organization(multi_user_platforms=[registry.PLATFORM_LINUX]),
                update_mask=FieldMask(paths=["multi_user_platforms"]),
            )
        )
        (default,) = json.loads(self.admin("--json", "profiles", "list"))["device_profiles"]
        networks = [option for network in (VIRTUAL, "fd00::/8", INSIDE) for option in ("--include", network)]
        self.admin("profiles", "update", default["device_profile_id"], *networks)
        said(f"through the tunnel goes what is for {VIRTUAL}, fd00::/8 and {INSIDE}")

    def _gateway(self, at: Namespace, interface: str) -> Gateway:
        key = self.folder / "gateway.key"
        key.touch(mode=0o600)
        key.write_text(self.network.gateway_key())
        profile = self.folder / "gateway.toml"
        dataclasses.replace(self._known, key_file=key).write(profile)
        gateway = self._stack.enter_context(Gateway(at, interface, profile, self.folder))
        request = registry.ListGatewaysRequest(organization_id=self.network.organization_id)
        until("the gateway is heard of", lambda: bool(self.client.gateways.ListGateways(request).gateways))
        return gateway

    def _machine(self, at: Namespace, name: str, interface: str) -> Machine:
        endpoint = f"{GATEWAY}:{WG_PORT}"
        profile = self.folder / f"{name}.toml"
        dataclasses.replace(self._known, gateway_public_key=self.gateway.public_key, gateway_endpoint=endpoint).write(
            profile
        )
        return self._stack.enter_context(Machine(at, name, interface, profile, self.folder))

    @property
    def _known(self) -> Profile:
        """What everybody is told of the installation, without a key."""
        return dataclasses.replace(self.client.profile, key_file=None, organization_id=self.network.organization_id)

    def registration(self, registration_id: str) -> registry.Registration:
        request = registry.GetRegistrationRequest(
            organization_id=self.network.organization_id, registration_id=registration_id
        )
        return self.client.registrations.GetRegistration(request).registration

    def registrations(self) -> list[registry.Registration]:
        """The active ones."""
        request = registry.ListRegistrationsRequest(organization_id=self.network.organization_id)
        found = self.client.registrations.ListRegistrations(request).registrations
        return [it for it in found if it.state == registry.REGISTRATION_STATE_ACTIVE]

    def admin(self, *command: str) -> str:
        """A command of the administrator."""
        of = ["--profile", str(self.plane.profile), "--organization", self.network.organization_id]
        return run(COMMAND, *of, *command)


def forget(interface: str) -> None:
    """Who has kept it has left a file to claim it by; nobody will claim one of this name again."""
    (FOLDER / f"{interface}.keeper").unlink(missing_ok=True)


def until(what: str, holds: Callable[[], bool], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise Differs(f"{seconds:.0f} s have gone by before {what}")
        time.sleep(0.05)
