"""`make demo-envoy`: a real Envoy that asks session about every request and every connection, as a transcript.

Every line that it prints was checked; it exits with 1 at the first that differs. What comes to Envoy here comes from
the end of a tunnel that passes on whose it is, by the PROXY protocol: so it needs no interface with addresses of the
network, and no privilege (docs/envoy.md).
"""

import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import guardhouse
from demo.__main__ import Differs, console, expect, said, title
from demo.envoy_proxy import Answer, Browser, Envoy, Places, configuration, connection
from demo.envoy_upstream import Upstream
from demo.issuer import Issuer, Person
from demo.plane import ControlPlane
from guardhouse import errors
from guardhouse.client import Client
from guardhouse.common.v1.access_pb2 import ROLE_GATEWAY
from guardhouse.common.v1.credential_pb2 import Credential
from guardhouse.enrollment import enroll
from guardhouse.identity.v1 import identity_pb2 as identity
from guardhouse.registry.v1 import registry_pb2 as registry
from guardhouse.session.v1 import session_pb2 as session

SHORT = 6
"""Seconds of the session timeout."""
ALICE = "alice@example.com"
SIGN_IN = "https://login.example.com/"
BACK_SECONDS = 20.0
"""How long a control plane that was started again may take until Envoy is answered."""


class Network:
    """An organization with its policies and one device."""

    def __init__(self, client: Client, issuer: Issuer) -> None:
        self.client = client
        self.issuer = issuer
        made = client.organizations.CreateOrganization(
            identity.CreateOrganizationRequest(organization=identity.Organization(display_name="Example"))
        )
        self.organization_id = made.organization.organization_id
        client.identity_providers.CreateIdentityProvider(
            identity.CreateIdentityProviderRequest(
                organization_id=self.organization_id,
                identity_provider=identity.IdentityProvider(
                    display_name="Example SSO", issuer=issuer.url, client_ids=[issuer.client_id]
                ),
            )
        )
        client.enrollment_policies.CreateEnrollmentPolicy(
            identity.CreateEnrollmentPolicyRequest(
                organization_id=self.organization_id,
                enrollment_policy=identity.EnrollmentPolicy(
                    display_name="People of example.com",
                    decision=identity.ENROLLMENT_DECISION_ALLOW,
                    precedence=10,
                    include=[identity.EnrollmentRule(email_domain="example.com")],
                ),
            )
        )
        self.registration = registry.Registration()
        self.signed_in = 0.0
        """When, by time.monotonic(), the session began at the latest."""

    def policy(
        self,
        name: str,
        filter_: session.PolicyFilter.ValueType,
        action: session.PolicyAction.ValueType,
        traffic: str,
        duration: str = "",
    ) -> None:
        limit = session.CheckSession(enforce=True, duration=duration) if duration else None
        self.client.policies.CreatePolicy(
            session.CreatePolicyRequest(
                organization_id=self.organization_id,
                policy=session.Policy(
                    display_name=name,
                    enabled=True,
                    filter=filter_,
                    action=action,
                    traffic=traffic,
                    check_session=limit,
                ),
            )
        )
        said(f"policy {name!r}: {traffic}" + (f", with a session of at most {duration}" if duration else ""))

    def gateway_key(self) -> str:
        key = identity.ApiKey(display_name="Envoy", role=ROLE_GATEWAY)
        request = identity.CreateApiKeyRequest(organization_id=self.organization_id, api_key=key)
        return self.client.api_keys.CreateApiKey(request).secret

    def enroll(self) -> None:
        device = registry.DeviceClaims(
            hardware_id="laptop-of-alice", display_name="laptop-of-alice", platform=registry.PLATFORM_LINUX
        )
        credential = Credential(id_token=self.issuer.sign_in(ALICE))
        self.registration = enroll(self.client, self.organization_id, credential, device).registration

    def sign_in(self) -> None:
        credential = Credential(id_token=self.issuer.sign_in(ALICE))
        self.signed_in = time.monotonic()
        self.client.sessions.Reauthenticate(
            session.ReauthenticateRequest(
                organization_id=self.organization_id,
                registration_id=self.registration.registration_id,
                credential=credential,
            )
        )
        # The client's call waits until session has heard of it, which Envoy's would not.
        self.resolve("wiki.example.com")

    def resolve(self, host: str) -> str:
        """What is decided on a DNS query."""
        answer = self.client.checks.CheckTraffic(
            session.CheckTrafficRequest(
                organization_id=self.organization_id,
                address=self.registration.ipv4,
                kind=session.TRAFFIC_KIND_QUERY,
                traffic=session.Traffic(fields={"dns.fqdn": host}),
            )
        ).answer
        return session.Decision.Name(answer.decision).removeprefix("DECISION_")


class Demo:
    """The steps, in order."""

    def __init__(self, plane: ControlPlane, network: Network, envoy: Envoy, upstream: Upstream) -> None:
        self.plane = plane
        self.network = network
        self.envoy = envoy
        self.upstream = upstream
        self.trusted = plane.var / "tls" / "ca.crt"

    def run(self) -> None:
        title("Alice's requests and connections pass")
        self.passes()
        with connection(self.envoy.ports["database"], self.network.registration.ipv4) as opened:
            expect("the connection", repeated(opened, "first"), "first")
            said(f"a connection of {self.network.registration.ipv4} to the database is open")
            title("What is refused whatever the session's age")
            self.others()
            title(f"{SHORT} s later the session has expired")
            self.expires(opened)
            title("Alice signs in again")
            self.network.sign_in()
            self.passes()
            title("The control plane is down")
            self.down(opened)
            title("The control plane is back")
            self.back(opened)

    def browser(self, source: str = "") -> Browser:
        return Browser(self.envoy.ports["web"], self.trusted, source or self.network.registration.ipv4)

    def get(self, path: str, what: str, status: int, source: str = "", **headers: str) -> Answer:
        answer = self.browser(source).fetch(path, headers={name.replace("_", "-"): it for name, it in headers.items()})
        expect(f"GET {path}", (answer.status, answer.body if answer.status != status else ""), (status, ""))
        said(f"GET {path}{what}: {status}")
        return answer

    def connects(self, text: str = "hello") -> bool:
        """Whether a new connection reaches the database."""
        before = self.upstream.connected
        with connection(self.envoy.ports["database"], self.network.registration.ipv4) as made:
            reached = repeated(made, text) == text
        expect("the database has heard of it", self.upstream.connected > before, reached)
        return reached

    # The steps

    def passes(self) -> None:
        registration = self.network.registration
        seen = self.get("/", " from alice's address", 200).json["headers"]
        told = {name: seen.get(f"x-guardhouse-{name}") for name in ("user", "registration")}
        expect("headers", told, {"user": registration.user_id, "registration": registration.registration_id})
        said(f"the application is told x-guardhouse-user: {told['user']}")
        expect("a new connection", self.connects(), True)
        said("a new connection to the database: open")

    def others(self) -> None:
        answer = self.get("/", " from 100.127.255.254, which nobody holds", 403, "100.127.255.254")
        said(f"it says why: {answer.json['reason']}, {answer.json['next']}")
        forged = {"x_guardhouse_user": "usr_of_somebody_else", "x_forwarded_for": self.network.registration.ipv4}
        self.get("/", " from there, with x-forwarded-for: alice's address", 403, "100.127.255.254", **forged)
        seen = self.get("/", " from alice's address, with x-guardhouse-user: somebody else's", 200, **forged)
        expect("the user", seen.json["headers"]["x-guardhouse-user"], self.network.registration.user_id)
        said("the application is told who it is all the same")
        answer = self.get("/admin/", " from alice's address", 403)
        expect("reason", answer.json["reason"], "POLICY_BLOCK")
        self.resolves()

    def resolves(self) -> None:
        found = [self.network.resolve(host) for host in ("wiki.example.com", "ads.example.net")]
        expect("DNS queries", found, ["ALLOW", "BLOCK"])
        said("DNS queries: wiki.example.com ALLOW, ads.example.net BLOCK")

    def expires(self, opened: socket.socket) -> None:
        with console.status("  waiting for the session to pass"):
            time.sleep(max(0.0, self.network.signed_in + SHORT - time.monotonic()))
        answer = self.get("/", "", 401)
        expect("reason", (answer.json["decision"], answer.json["reason"]), ("REAUTHENTICATE", "SESSION_EXPIRED"))
        said(f"WWW-Authenticate: {answer.headers['www-authenticate']}")
        answer = self.get("/page", " by a browser", 302, accept="text/html")
        expect("where to", answer.headers["location"].startswith(SIGN_IN), True)
        said(f"Location: {answer.headers['location']}")
        expect("a new connection", self.connects(), False)
        said("a new connection to the database: closed, and the database has not heard of it")
        expect("the open connection", repeated(opened, "second"), "second")
        said("the connection that was open before goes on (decision 32)")
        self.resolves()

    def down(self, opened: socket.socket) -> None:
        self.plane.stop()
        self.get("/", "", 503)
        expect("a new connection", self.connects(), False)
        said("a new connection to the database: closed")
        expect("the open connection", repeated(opened, "third"), "third")
        said("the connection that was open before goes on")

    def back(self, opened: socket.socket) -> None:
        self.plane.restart()
        wait_for("signing in", self.signs_in)
        wait_for("a request", lambda: self.browser().fetch().status == 200)
        self.passes()
        expect("the open connection", repeated(opened, "fourth"), "fourth")
        said("the connection that was open before goes on")

    def signs_in(self) -> bool:
        try:
            self.network.sign_in()
        except (errors.StateStale, errors.ServiceUnavailable):
            return False
        return True


def repeated(opened: socket.socket, text: str) -> str:
    """What comes back for a line of text; nothing, when the connection is closed."""
    try:
        opened.sendall(f"{text}\n".encode())
        return opened.recv(100).decode().removesuffix("\n")
    except (BrokenPipeError, ConnectionResetError):
        return ""


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + BACK_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise Differs(f"{what} is not answered {BACK_SECONDS:.0f} s after the start")
        time.sleep(0.1)


def main() -> int:
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="guardhouse-demo-")))
        issuer = stack.enter_context(Issuer([Person(ALICE, "Alice")]))
        upstream = stack.enter_context(Upstream())
        title("A control plane, a web application and a database, and Envoy in front of them")
        plane = stack.enter_context(ControlPlane(folder, GUARDHOUSE_NAMES="wiki.example.com"))
        client = stack.enter_context(guardhouse.connect(plane.profile))
        envoy: Envoy | None = None
        try:
            network = Network(client, issuer)
            allow, block, limit = session.POLICY_ACTION_ALLOW, session.POLICY_ACTION_BLOCK, f"{SHORT}s"
            network.policy("Admin pages", session.POLICY_FILTER_HTTP, block, 'http.request.uri.path matches "^/admin/"')
            network.policy("Wiki", session.POLICY_FILTER_HTTP, allow, 'http.request.host == "wiki.example.com"', limit)
            network.policy("Database", session.POLICY_FILTER_L4, allow, "net.dst.port == 5432", limit)
            network.policy("Advertising", session.POLICY_FILTER_DNS, block, 'any(dns.domains[*] == "ads.example.net")')
            session_port = plane.port_base + 4
            places = Places(plane.var / "tls", session_port, upstream.web_port, upstream.echo_port)
            envoy = Envoy(folder / "envoy", configuration(places, passed_on=True), network.gateway_key())
            stack.enter_context(envoy)
            said("Envoy is live, with deploy/envoy/envoy.yaml and a GATEWAY key of the organization")
            network.enroll()
            network.sign_in()
            said(f"alice's laptop is enrolled: {network.registration.ipv4} is {network.registration.registration_id}")
            Demo(plane, network, envoy, upstream).run()
        except (Differs, errors.GuardhouseError, RuntimeError, OSError) as error:
            console.print(f"  [red]✗ {type(error).__name__}: {error}[/red]", markup=True)
            for log in (plane.log, *([envoy.log] if envoy else [])):
                console.print(log.read_text()[-4000:], style="dim", markup=False)
            return 1
    console.print(f"\n[bold green]Everything was as it must be[/bold green] ({time.monotonic() - began:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
