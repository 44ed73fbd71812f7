"""`make demo-network`: a network that carries packets, as a transcript. A revocation stops them.

    the control plane, in this process's own network ── 192.0.2.0/24 ──┬── alice's laptop
                                                                       ├── a desk that bob has, and later shares
                                                                       └── the gateway ── 198.51.100.0/24 ── web

Every line that it prints was checked; it exits with 1 at the first that differs. It takes root and what
`namespaces.APT` names; where network namespaces or tunnels cannot be made it says so, and exits with 0.
"""

import dataclasses
import ipaddress
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict

import guardhouse
from demo import namespaces
from demo.__main__ import Differs, console, expect, refused, said, title
from demo.envoy import Network
from demo.envoy_proxy import Answer, Browser, Envoy, Places, configuration
from demo.envoy_upstream import Upstream
from demo.issuer import Issuer, Person
from demo.namespaces import Namespace, join, run
from demo.ping import Ping
from demo.plane import ControlPlane
from guardhouse import errors
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session

ALICE, BOB, CAROL = (f"{name}@example.com" for name in ("alice", "bob", "carol"))
SHORT: Final = 8
"""Seconds of the session timeout."""
DOWN_SECONDS: Final = 5.0
"""How long the control plane is away."""
BACK_SECONDS: Final = 20.0
"""How long one that was started again may take until Envoy is answered."""
STALENESS: Final = "30s"
HANDSHAKE_SECONDS: Final = 30.0
"""WireGuard's client notices after 15 s that nobody answers, and tries again every 5 s."""
WG_PORT: Final = 51820
# Of the networks for documentation (RFC 5737), which nobody's are.
PLANE, GATEWAY, WEB_OUTSIDE = "192.0.2.1", "192.0.2.2", "192.0.2.5"
LAPTOP, DESK = "192.0.2.3", "192.0.2.4"
GATEWAY_INSIDE, WEB, INSIDE = "198.51.100.1", "198.51.100.2", "198.51.100.0/24"
VIRTUAL: Final = "100.96.0.0/12"
HOST: Final = "wiki.example.com"
PEOPLE: Final = (ALICE, BOB, CAROL)
LOG_SECONDS: Final = 5.0
COMMAND: Final = str(Path(sys.executable).with_name("guardhouse"))


class Machine:
    """A device. Its commands run in its own network, and so does its tunnel."""

    def __init__(self, at: Namespace, name: str, interface: str, profile: Path, folder: Path, gateway_key: str) -> None:
        self.at = at
        self.name = name
        self.registration = registry.Registration()
        self._interface = interface
        self._profile = profile
        self._folder = folder
        self._gateway_key = gateway_key

    def guardhouse(self, *command: str, text: str = "") -> Any:
        """What a command answers, as JSON."""
        return json.loads(self.at.run(COMMAND, "--profile", str(self._profile), "--json", *command, text=text))

    def enroll(self, id_token: str, *options: str) -> registry.Registration:
        command = ["enroll", "--id-token-file", "-", "--hardware-id", self.at.name, "--save", str(self._folder)]
        made = self.guardhouse(*command, *options, text=id_token)["registration"]
        self.registration = ParseDict(made, registry.Registration(), ignore_unknown_fields=True)
        return self.registration

    def connect(self, registration: registry.Registration) -> None:
        """Points its tunnel to the gateway, as this registration and as no other."""
        name, ip = self._interface, self.at.ip
        key = self._folder / f"{registration.registration_id}.key"
        ip("addr", "flush", "dev", name)
        peer = ["peer", self._gateway_key]
        self.at.run("wg", "set", name, *peer, "remove")
        self.at.run("wg", "set", name, "private-key", str(key))
        ip("addr", "add", f"{registration.ipv4}/32", "dev", name)
        ip("addr", "add", f"{registration.ipv6}/128", "dev", name)
        ip("link", "set", name, "mtu", "1420", "up")
        networks = [VIRTUAL, INSIDE, str(network_of(registration))]
        for network in networks:
            ip("route", "replace", network, "dev", name)
        through = ["endpoint", f"{GATEWAY}:{WG_PORT}", "persistent-keepalive", "25"]
        self.at.run("wg", "set", name, *peer, *through, "allowed-ips", ",".join(networks))

    def device(self, command: str, *options: str, text: str = "") -> Any:
        """A command of the machine for its registration."""
        of = ["--from", str(self._folder), "--registration", self.registration.registration_id]
        return self.guardhouse("device", command, *of, *options, text=text)


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

    def raise_tunnel(self) -> None:
        name = self._interface
        self._wireguard = self._tunnel.enter_context(self.at.wireguard(name))
        self.at.run("wg", "set", name, "listen-port", str(WG_PORT), "private-key", str(self._key))
        self.at.ip("link", "set", name, "mtu", "1420", "up")
        for network in (VIRTUAL, "fd00::/8"):
            self.at.ip("route", "add", network, "dev", name)

    def start(self) -> None:
        command = [COMMAND, "--profile", str(self._profile), "gateway", "wireguard", "--interface", self._interface]
        options = ["--name", "edge", "--max-staleness", STALENESS]
        self._process = self._keeper.enter_context(self.at.running(*command, *options, log=self.log))

    def kill(self) -> None:
        """As a crash of what keeps the peers does it."""
        self._process.kill()
        self._keeper.close()

    def kill_tunnel(self) -> None:
        self._wireguard.kill()
        self._tunnel.close()

    def peers(self) -> int:
        return len(self.at.run("wg", "show", self._interface, "peers").splitlines())


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
        self._cables(gateway, web, laptop, desk)
        self.plane = made(ControlPlane(self.folder, GUARDHOUSE_HOST=PLANE, GUARDHOUSE_NAMES=HOST))
        self.client = made(guardhouse.connect(self.plane.profile))
        self.network = Network(self.client, self.issuer)
        self._policies()
        key = self.folder / "gateway.key"
        key.touch(mode=0o600)
        key.write_text(self.network.gateway_key())
        interface = f"gh{os.getpid()}"
        self.gateway = made(Gateway(gateway, f"{interface}g", self._profile("gateway", key), self.folder))
        self.laptop, self.desk = (
            self._machine(at, name, f"{interface}{name[0]}") for at, name in ((laptop, "laptop"), (desk, "desk"))
        )
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
        names = ("server.log", "gateway.log", "envoy/envoy.log")
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

    def _profile(self, name: str, key: Path | None) -> Path:
        path = self.folder / f"{name}.toml"
        known = self.client.profile
        dataclasses.replace(known, key_file=key, organization_id=self.network.organization_id).write(path)
        return path

    def _machine(self, at: Namespace, name: str, interface: str) -> Machine:
        self._stack.enter_context(at.wireguard(interface))
        return Machine(at, name, interface, self._profile(name, None), self.folder / name, self.gateway.public_key)

    def registrations(self) -> list[registry.Registration]:
        """The active ones."""
        request = registry.ListRegistrationsRequest(organization_id=self.network.organization_id)
        found = self.client.registrations.ListRegistrations(request).registrations
        return [it for it in found if it.state == registry.REGISTRATION_STATE_ACTIVE]

    def admin(self, *command: str) -> str:
        """A command of the administrator."""
        of = ["--profile", str(self.plane.profile), "--organization", self.network.organization_id]
        return run(COMMAND, *of, *command)


class Demo:
    """The steps, in order."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.client = site.client
        self.network = site.network
        self.laptop, self.desk = site.laptop, site.desk

    def run(self) -> None:
        title("Alice's laptop and bob's desk enroll with real ID tokens, and connect")
        self.connect()
        title("The laptop is revoked")
        self.revoke()
        title("It is restored")
        self.restore()
        title("It is deleted")
        self.delete()
        title("Its session expires")
        self.expire()
        title("The desk is shared")
        self.share()
        title("The control plane is killed")
        self.lose_plane()
        title("The gateway is killed")
        self.lose_gateway()

    # The steps

    def connect(self) -> None:
        for machine, email in ((self.laptop, ALICE), (self.desk, BOB)):
            began = time.monotonic()
            of = machine.enroll(self.site.issuer.sign_in(email))
            machine.connect(of)
            with self.ping(machine, WEB) as web:
                self.comes(web)
            said(f"{machine.name}: {of.ipv4} and {of.ipv6}; the web server answers {since(began)} after the start")
        one, other = self.laptop.registration, self.desk.registration
        for machine, to in ((self.laptop, other), (self.desk, one)):
            for address in (to.ipv4, to.ipv6):
                with self.ping(machine, address) as ping:
                    self.comes(ping)
                said(f"ping {ping.name}: answered")

    def revoke(self) -> None:
        registration = self.laptop.registration
        with self.pings() as (there, back, web):
            self.away(there, back, "revoke", registration.registration_id, "--wait")
            self.unharmed(web)
        expect("its address", self.holder(registration.ipv4), registration.registration_id)
        said(f"{registration.ipv4} is still its own")

    def restore(self) -> None:
        with self.pings(silent=True) as (there, back, web):
            began = time.monotonic()
            self.site.admin("registrations", "unrevoke", self.laptop.registration.registration_id)
            for ping in (there, back):
                self.comes(ping)
            said(f"both pings are back {since(began)} after the start: WireGuard waits 15 s until it tries again")
            self.unharmed(web)

    def delete(self) -> None:
        registration = self.laptop.registration
        with self.pings() as (there, back, web):
            self.away(there, back, "delete", registration.registration_id, "--wait", "--yes")
            self.unharmed(web)
        error = refused(errors.AddressNotFound, lambda: self.holder(registration.ipv4))
        said(error.message)
        request = ipam.ListAddressesRequest(
            organization_id=self.network.organization_id, state=ipam.ADDRESS_STATE_QUARANTINED
        )
        resting = [lease.ipv4 for lease in self.client.addresses.ListAddresses(request).leases]
        expect("resting addresses", resting, [registration.ipv4])
        said(f"{registration.ipv4} rests: it is nobody else's for an hour")
        back_again = self.laptop.enroll(self.site.issuer.sign_in(ALICE))
        self.laptop.connect(back_again)
        with self.ping(self.laptop, WEB) as web:
            self.comes(web)
        said(f"the laptop enrolls again, as another registration, with {back_again.ipv4}")

    def away(self, there: Ping, back: Ping, *command: str) -> None:
        """A command of the administrator by which the laptop is away before it returns."""
        began = time.monotonic()
        self.site.admin("registrations", *command)
        returned = time.monotonic()
        for ping in (there, back):
            answered, sent = ping.answers(returned, returned + 1)
            expect(f"answers to packets of ping {ping.name} after the return", answered, 0)
            last = ping.last_answered()
            expect("the last answer came before the return", last < returned, True)
            said(
                f"ping {ping.name}: the last answer after {ms(last - began)}, none to {sent} packets from the return on"
            )
        said(f"registrations {command[0]} --wait returned {ms(returned - began)} after the start")

    def expire(self) -> None:
        with self.pings() as (there, _, _):
            self.sign_in()
            signed_in = time.monotonic()
            self.get(self.laptop, "/payroll", 200)
            with console.status("  waiting for the session to pass"):
                time.sleep(max(0.0, signed_in + SHORT - time.monotonic()))
            answer = self.get(self.laptop, "/payroll", 401)
            expect("reason", answer.json["reason"], "SESSION_EXPIRED")
            answer = self.get(self.laptop, "/payroll", 302, accept="text/html")
            said(f"which is a browser, sent to {answer.headers['location'].partition('?')[0]}")
            self.get(self.laptop, "/", 200)
            self.sign_in()
            self.get(self.laptop, "/payroll", 200)
            self.unharmed(there)

    def share(self) -> None:
        """Two people with a registration each: who is at the desk is whose traffic it is."""
        self.site.admin("registrations", "delete", self.desk.registration.registration_id, "--yes")
        people = {}
        for email in (BOB, CAROL):
            account = email.partition("@")[0]
            people[account] = self.desk.enroll(self.site.issuer.sign_in(email), "--multi-user", account)
            said(f"{account} registers on it: {people[account].ipv4}")
        for account, event in (("bob", "log-in"), ("carol", "switch"), ("bob", "switch")):
            began = time.monotonic()
            registration = self.desk.registration = people[account]
            current = self.desk.device("report-session", event, "--user", account)["current_registration_id"]
            expect("current", current, registration.registration_id)
            self.desk.connect(registration)
            with self.ping(self.desk, WEB) as web:
                self.comes(web)
            took, offset = since(began), len(self.site.envoy.log.read_text())
            answer = self.get(self.desk, "/", 200)
            expect("the user", answer.json["headers"]["x-guardhouse-user"], registration.user_id)
            logged = self.logged(offset)
            expect("the peer that Envoy logs", logged["peer"], registration.ipv4)
            expect("whose traffic it logs", logged["decision"]["user_id"], registration.user_id)
            who = json.loads(self.site.admin("--json", "addresses", "who", registration.ipv4))
            expect("whose its address is", (who["os_session"]["os_user"], who["is_current"]), (account, True))
            said(f"{event} of {account}: packets pass {took} later, and the traffic log names {account}")

    def lose_plane(self) -> None:
        with self.pings() as (there, back, web):
            self.site.plane.kill()
            with console.status("  without it"):
                time.sleep(DOWN_SECONDS)
            self.get(self.laptop, "/", 503)
            for ping in (there, back, web):
                self.unharmed(ping)
            began = time.monotonic()
            self.site.plane.restart()
            while self.fetch(self.laptop, "/").status != 200:
                if time.monotonic() > began + BACK_SECONDS:
                    raise Differs(f"Envoy is not answered {BACK_SECONDS:.0f} s after the start")
                time.sleep(0.1)
            said(f"started again, it answers Envoy {since(began)} later")
            self.unharmed(there)

    def lose_gateway(self) -> None:
        gateway = self.site.gateway
        with self.pings() as (there, _, web), self.ping(self.laptop, WEB) as laptop:
            gateway.kill()
            self.unharmed(there)
            said("who keeps its peers is killed: they stay")
            gateway.kill_tunnel()
            moment = time.monotonic()
            expect("answers without a tunnel", laptop.answers(moment, moment + 1)[0], 0)
            self.site.admin("registrations", "revoke", self.desk.registration.registration_id)
            said("its tunnel is killed, and the desk revoked meanwhile")
            began = time.monotonic()
            gateway.raise_tunnel()
            gateway.start()
            self.comes(laptop)
            said(f"both are started again: the laptop is back {since(began)} later")
            expect("peers", gateway.peers(), len(self.site.registrations()))
            expect("answers to the desk", web.answers(began, time.monotonic())[0], 0)
            said("and the desk is not")

    # What is looked at

    @contextmanager
    def pings(self, silent: bool = False) -> Iterator[tuple[Ping, Ping, Ping]]:
        """From the laptop to the desk, the other way, and from the desk to the web server, all answered; or silent, the
        first two."""
        one, other = self.laptop.registration, self.desk.registration
        with (
            self.ping(self.laptop, other.ipv4) as there,
            self.ping(self.desk, one.ipv4) as back,
            self.ping(self.desk, WEB) as web,
        ):
            for ping in (web,) if silent else (there, back, web):
                self.comes(ping)
            yield there, back, web

    def ping(self, machine: Machine, address: str) -> Ping:
        return Ping(f"from the {machine.name} to {address}", machine.at, address)

    def comes(self, ping: Ping) -> None:
        if ping.answered_after(time.monotonic(), HANDSHAKE_SECONDS) is None:
            raise Differs(f"ping {ping.name}: no answer within {HANDSHAKE_SECONDS:.0f} s")

    def unharmed(self, ping: Ping) -> None:
        """It went on from its first answer until now."""
        answered, sent = ping.answers(ping.first_answered(), time.monotonic())
        if answered < sent - sent // 100:
            raise Differs(f"ping {ping.name}: {sent - answered} of {sent} packets were lost")
        said(f"ping {ping.name}: {answered} of {sent} packets were answered")

    def fetch(self, machine: Machine, path: str, **headers: str) -> Answer:
        trusted = self.site.plane.var / "tls" / "ca.crt"
        with machine.at.entered():
            return Browser(self.site.envoy.ports["web"], trusted, server=WEB).fetch(path, headers=headers)

    def get(self, machine: Machine, path: str, status: int, **headers: str) -> Answer:
        answer = self.fetch(machine, path, **headers)
        expect(f"GET {path}", (answer.status, answer.body if answer.status != status else ""), (status, ""))
        said(f"GET {path} from {machine.name}: {status}")
        return answer

    def logged(self, offset: int) -> dict[str, Any]:
        """What Envoy's access log says of the request whose line begins there."""
        end = time.monotonic() + LOG_SECONDS
        while time.monotonic() < end:
            for line in self.site.envoy.log.read_text()[offset:].splitlines():
                if line.startswith("{") and line.endswith("}"):
                    found: dict[str, Any] = json.loads(line)
                    return found
            time.sleep(0.05)
        raise Differs(f"Envoy has logged nothing within {LOG_SECONDS:.0f} s")

    def sign_in(self) -> None:
        self.laptop.device("reauthenticate", "--id-token-file", "-", text=self.site.issuer.sign_in(ALICE))

    def holder(self, address: str) -> str:
        request = ipam.LookupAddressRequest(organization_id=self.network.organization_id, address=address)
        return self.client.addresses.LookupAddress(request).lease.registration_id


def since(moment: float) -> str:
    return ms(time.monotonic() - moment)


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def network_of(registration: registry.Registration) -> ipaddress.IPv6Network:
    """The organization's."""
    return ipaddress.IPv6Network((registration.ipv6, 64), strict=False)


def main() -> int:
    if lacking := namespaces.missing():
        console.print(f"Skipped: {lacking}.")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    namespaces.leave_network()
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="guardhouse-demo-")))
        title("A control plane, a gateway, two machines and a web server behind Envoy, each in a network of its own")
        site = Site(folder)
        try:
            stack.enter_context(site)
            said(f"all run; the gateway is in {GATEWAY}, the web server in {WEB} behind it")
            Demo(site).run()
        except (Differs, errors.GuardhouseError, RuntimeError, OSError) as error:
            console.print(f"  [red]✗ {type(error).__name__}: {error}[/red]", markup=True)
            for log in site.logs:
                console.print(f"{log.name}:\n{log.read_text()[-2000:]}", style="dim", markup=False)
            return 1
        except KeyboardInterrupt:
            console.print("\nStopped.")
            return 130
    console.print(f"\n[bold green]Everything was as it must be[/bold green] ({time.monotonic() - began:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
