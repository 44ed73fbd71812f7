"""`make demo-network`: a network that carries packets, as a transcript. A revocation stops them.

Every line that it prints was checked; it exits with 1 at the first that differs. It takes root and what
`namespaces.APT` names; where network namespaces or tunnels cannot be made it says so, and exits with 0.
"""

import argparse
import functools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from demo import namespaces, network_figures
from demo.__main__ import Differs, console, expect, refused, said, title
from demo.envoy_proxy import Answer, Browser
from demo.network_site import ALICE, BOB, CAROL, GATEWAY, HEARTBEAT, SECONDS, SHORT, WEB, Machine, Site, until
from demo.ping import Ping, arrives
from guardhouse import errors
from guardhouse.ipam.v1 import ipam_pb2 as ipam
from guardhouse.registry.v1 import registry_pb2 as registry

DOWN_SECONDS: Final = 5.0
"""How long the control plane is away."""
HANDSHAKE_SECONDS: Final = 30.0
"""WireGuard's client notices after 15 s that nobody answers, and tries again every 5 s."""
LOG_SECONDS: Final = 5.0
ROTATE_SECONDS: Final = 60
"""The youngest key that an agent replaces."""


class Demo:
    """The steps, in order."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.client = site.client
        self.network = site.network
        self.laptop, self.desk = site.laptop, site.desk
        self.snapshot = ("--snapshot", str(site.folder / "gateway.snapshot"))
        self.of: dict[str, registry.Registration] = {}
        """What each of them connects with."""

    def run(self) -> None:
        title("Alice's laptop and bob's desk enroll with real ID tokens, and connect")
        self.connect()
        title("The desk sends in the laptop's name")
        self.pretend()
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
        title("The gateway starts while the control plane is away")
        self.start_alone()
        title("The laptop replaces its key")
        self.rotate()

    # The steps

    def connect(self) -> None:
        for machine, email in ((self.laptop, ALICE), (self.desk, BOB)):
            began = time.monotonic()
            machine.start()
            machine.sign_in(self.site.issuer.sign_in(email))
            self.connected(machine, machine.current())
            of = self.of[machine.name]
            said(f"{machine.name}: {of.ipv4} and {of.ipv6}; the web server answers {since(began)} after the start")
        one, other = self.of["laptop"], self.of["desk"]
        for machine, to in ((self.laptop, other), (self.desk, one)):
            for address in (to.ipv4, to.ipv6):
                with self.ping(machine, address) as ping:
                    self.comes(ping)
                said(f"ping {ping.name}: answered")

    def connected(self, machine: Machine, registration_id: str) -> None:
        of = self.of[machine.name] = self.site.registration(registration_id)
        machine.until_it_is(of)
        with self.ping(machine, WEB) as web:
            self.comes(web)

    def pretend(self) -> None:
        named = {"its own": self.of["desk"].ipv4, "the laptop's": self.of["laptop"].ipv4}
        found = {whose: arrives(self.desk.at, address, self.site.web_at, WEB) for whose, address in named.items()}
        expect("what arrives", found, {"its own": True, "the laptop's": False})
        for whose, arrived in found.items():
            said(f"a packet to the web server that names {whose} address: {'arrives' if arrived else 'dropped'}")

    def revoke(self) -> None:
        registration = self.of["laptop"]
        with self.pings() as (there, back, web):
            self.away(there, back, "revoke", registration.registration_id, "--wait")
            self.unharmed(web)
        expect("its address", self.holder(registration.ipv4), registration.registration_id)
        said(f"{registration.ipv4} is still its own")
        self.says("is revoked")

    def restore(self) -> None:
        with self.pings(silent=True) as (there, back, web):
            began = time.monotonic()
            self.site.admin("registrations", "unrevoke", self.of["laptop"].registration_id)
            for ping in (there, back):
                self.comes(ping)
            said(f"both pings are back {since(began)} after the start: its agent asks every {HEARTBEAT} here")
            self.unharmed(web)

    def delete(self) -> None:
        registration = self.of["laptop"]
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
        self.says("was deleted")
        self.laptop.sign_in(self.site.issuer.sign_in(ALICE))
        self.connected(self.laptop, self.laptop.current(but=registration.registration_id))
        said(f"alice signs in: it is another registration, with {self.of['laptop'].ipv4}")

    def says(self, part: str) -> None:
        """What the laptop's agent says."""
        console.print(f"  [green]✓[/green] guardhouse agent status: {self.laptop.until_told(part)}", markup=True)

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
        desk = self.desk
        desk.stop()
        desk.start("--multi-user")
        people: dict[str, registry.Registration] = {}
        for event, email in (("log-in", BOB), ("switch", CAROL), ("switch", BOB)):
            account = email.partition("@")[0]
            answer = desk.tell(event, "--user", account)
            expect("asks to register", answer["asks_to_register"], account not in people)
            if account not in people:
                before = self.of["desk"].registration_id
                desk.sign_in(self.site.issuer.sign_in(email), "--user", account)
                people[account] = self.site.registration(desk.current(but=before))
                said(f"{account} signs in on it: {people[account].ipv4}")
            began = time.monotonic()
            of = self.of["desk"] = people[account]
            desk.until_it_is(of)
            with self.ping(desk, WEB) as web:
                self.comes(web)
            took, offset = since(began), len(self.site.envoy.log.read_text())
            seen = self.get(desk, "/", 200).json["headers"]
            expect("the user", seen["x-guardhouse-user"], of.user_id)
            logged = self.logged(offset)
            expect("whose traffic it logs", (logged["peer"], logged["decision"]["user_id"]), (of.ipv4, of.user_id))
            # The agent tells the registry when it has told the interface.
            until(f"the registry knows that {account} is at it", functools.partial(self.is_at_desk, account, of.ipv4))
            said(f"{event} of {account}: packets pass {took} later, and the traffic log names {account}")

    def is_at_desk(self, account: str, address: str) -> bool:
        who = json.loads(self.site.admin("--json", "addresses", "who", address))
        return bool(who["is_current"]) and who["os_session"]["os_user"] == account

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
            until("Envoy is answered", lambda: self.fetch(self.laptop, "/").status == 200)
            said(f"started again, it answers Envoy {since(began)} later")
            self.unharmed(there)

    def lose_gateway(self) -> None:
        gateway = self.site.gateway
        with self.pings() as (there, _, web), self.ping(self.laptop, WEB) as laptop:
            gateway.kill()
            time.sleep(1)
            self.unharmed(there)
            said("who keeps its peers is killed: they stay")
            gateway.kill_tunnel()
            moment = time.monotonic()
            expect("answers without a tunnel", laptop.answers(moment, moment + 1)[0], 0)
            self.site.admin("registrations", "revoke", self.of["desk"].registration_id)
            said("its tunnel is killed, and the desk revoked meanwhile")
            began = time.monotonic()
            gateway.raise_tunnel()
            gateway.start(*self.snapshot)
            self.comes(laptop)
            said(f"both are started again: the laptop is back {since(began)} later")
            expect("peers", gateway.peers(), len(self.site.registrations()))
            expect("answers to the desk", web.answers(began, time.monotonic())[0], 0)
            said("and the desk is not")

    def start_alone(self) -> None:
        gateway, peers = self.site.gateway, len(self.site.registrations())
        with self.ping(self.laptop, WEB) as laptop:
            self.comes(laptop)
            gateway.stop()
            gateway.kill_tunnel()
            self.site.plane.kill()
            gateway.raise_tunnel()
            expect("peers", gateway.peers(), 0)
            began = time.monotonic()
            gateway.start(*self.snapshot)
            until("the gateway has its peers", lambda: gateway.peers() == peers)
            said(f"its interface has {peers} peers again {since(began)} after the start, from its file")
            self.laptop.shake_hands()
            self.comes(laptop)
            said(f"ping {laptop.name}: answered")
            self.get(self.laptop, "/", 503)
            self.site.plane.restart()
            until("Envoy is answered", lambda: self.fetch(self.laptop, "/").status == 200)

    def rotate(self) -> None:
        before = self.of["laptop"]
        self.laptop.stop()
        self.laptop.start("--rotate-key", f"{ROTATE_SECONDS}s")
        with self.ping(self.laptop, WEB) as ping:
            self.comes(ping)
            with console.status("  waiting for its key to be a minute old"):
                replaced = functools.partial(self.has_other_key, before)
                until("the laptop has another key", replaced, ROTATE_SECONDS + SECONDS)
            after = self.site.registration(before.registration_id)
            until("the gateway has it", lambda: self.site.gateway.has(after.public_key))
            expect("the gateway has the old one", self.site.gateway.has(before.public_key), False)
            self.comes(ping)
            answered, sent = ping.answers(ping.first_answered(), time.monotonic())
            said(f"the gateway has the new key and not the old one; {sent - answered} of {sent} packets were lost")
        expect("its addresses", (after.ipv4, after.ipv6), (before.ipv4, before.ipv6))
        said(f"its addresses are still {after.ipv4} and {after.ipv6}")

    def has_other_key(self, of: registry.Registration) -> bool:
        return self.site.registration(of.registration_id).public_key != of.public_key

    # What is looked at

    @contextmanager
    def pings(self, silent: bool = False) -> Iterator[tuple[Ping, Ping, Ping]]:
        """From the laptop to the desk, the other way, and from the desk to the web server, all answered; or silent, the
        first two."""
        one, other = self.of["laptop"], self.of["desk"]
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
        """Alice signs in, and her session is fresh."""
        self.laptop.sign_in(self.site.issuer.sign_in(ALICE))
        until("the session is fresh", lambda: self.fetch(self.laptop, "/payroll").status == 200)

    def holder(self, address: str) -> str:
        request = ipam.LookupAddressRequest(organization_id=self.network.organization_id, address=address)
        return self.client.addresses.LookupAddress(request).lease.registration_id


def since(moment: float) -> str:
    return ms(time.monotonic() - moment)


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 5 else f"{seconds:.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.network", description="A network that carries packets.")
    parser.add_argument("--figures", type=int, default=0, metavar="N", help="measure N revocations instead")
    figures = parser.parse_args().figures
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
            if figures:
                network_figures.measure(site, figures)
                return 0
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
