"""Settings, from the environment. `guardhouse-server settings` prints this page."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SERVICES = ("identity", "registry", "ipam", "session")
PREFIX = "GUARDHOUSE_"


class CannotStart(Exception):
    """What an operator has to mend before a service can start; the text says what."""


class Settings(BaseSettings):
    """Every setting has a default that works on a laptop. A variable is GUARDHOUSE_ and the name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    var: Path = Field(
        default=Path("var"), description="The folder of databases, certificates and keys that are made on first use."
    )
    host: str = Field(default="127.0.0.1", description="The address that the public listeners bind to.")
    service_host: str = Field(
        default="127.0.0.1", description="The address that the service listeners bind to, for the other services."
    )
    names: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_.:*, -]*$",
        description="Names and addresses that clients reach the services by, separated by commas, "
        "for the certificates of the local CA.",
    )
    http_host: str = Field(
        default="127.0.0.1",
        description="The address that the HTTP ports bind to: /metrics, /healthz and /readyz, identity's SCIM and "
        "session's key sets.",
    )
    port_base: int = Field(
        default=7400,
        ge=1024,
        le=65000,
        description="Public listeners: +1 identity to +4 session; service listeners: +11 to +14; HTTP: +21 to +24.",
    )
    database_url: str = Field(
        default="",
        description="The database, with {service} where the service's name goes: "
        "postgresql://user:password@host/guardhouse_{service}. Empty: SQLite files below var.",
    )
    key_file: Path | None = Field(
        default=None,
        description="The installation's key: 32 bytes in hex, as secret as an ADMIN key. Empty: made below var/keys.",
    )
    tls_folder: Path | None = Field(
        default=None,
        description="ca.crt and, for each service, NAME.crt and NAME.key. Empty: a local CA is made below var/tls.",
    )
    trust_domain: str = Field(
        default="guardhouse.local", description="The SPIFFE trust domain of the services' certificates."
    )
    peer_host: str = Field(
        default="127.0.0.1",
        description="Where the other services' service listeners are, with {service} where the name goes.",
    )
    reflection: Literal["auto", "on", "off"] = Field(
        default="auto", description="Server reflection; auto is on for loopback only."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is logged."
    )
    metrics_per_organization: bool = Field(
        default=False, description="Whether the metrics of seats, registrations and addresses name organizations."
    )
    traces: str = Field(
        default="off",
        pattern=r"^(off|https?://.+)$",
        description="Where OpenTelemetry traces are sent to by OTLP over gRPC: http://host:4317. "
        "It takes the extra `otel`.",
    )
    log_calls: bool = Field(default=True, description="Whether each call is logged.")
    anonymous_rate: float = Field(default=50, gt=0, description="Anonymous calls a second that one address may make.")
    anonymous_burst: int = Field(default=200, gt=0, description="Anonymous calls that one address may make at once.")
    trusted_proxies: str = Field(
        default="",
        pattern=r"^[0-9A-Fa-f:./, ]*$",
        description="Networks of the proxies, separated by commas, that are believed where a device is: for the rules "
        "of enrollment policies, and for the limit on anonymous calls. Empty: where its connection comes from.",
    )
    client_address_header: str = Field(
        default="x-forwarded-for",
        pattern=r"^[a-z0-9_.-]+$",
        description="The header in which trusted proxies say whom they saw, in small letters; each adds at its end.",
    )
    client_country_header: str = Field(
        default="",
        pattern=r"^[a-z0-9_.-]*$",
        description="The header in which a trusted proxy says in which country the device is, as two letters, in small "
        "letters. It has to drop what devices send under this name. Empty: countries are not known.",
    )
    drain_seconds: float = Field(
        default=0, ge=0, description="How long a stopping server says it is not serving before it stops."
    )
    poll_seconds: float = Field(
        default=0.1, gt=0, description="How often a feed looks for the commits of other replicas."
    )
    ipv4_subnet: str = Field(
        default="100.96.0.0/12", description="The IPv4 subnet of an organization that is used first now."
    )
    quarantine: str = Field(
        default="1h",
        description="How long a released address rests: Go's form, at least 10m. The same for ipam, which lets it "
        "rest, and session, where no policy may stay open for longer.",
    )
    address_history: str = Field(
        default="8760h",
        description="How long it stays known who held an address: Go's form, at least 24h. What is older is deleted.",
    )
    audit_folder: Path | None = Field(
        default=None,
        description="Where signed checkpoints of the audit logs are appended, one file a service. Keep it elsewhere.",
    )
    audit_command: str = Field(
        default="", description="A command that is given each signed checkpoint, as a line of JSON on standard input."
    )
    audit_seconds: float = Field(default=60, gt=0, description="How often checkpoints are exported.")
    max_staleness: str = Field(
        default="30s", description="How old a session replica's state may be to decide: 2s to 5m."
    )

    issuer: str = Field(
        default="",
        pattern=r"^(https?://[^/?#]+(/[^/?#]+)*)?$",
        description="What the `iss` of application tokens begins with, such as https://access.example.com; an "
        "organization's is this, / and its id, and its key set is at its iss and /jwks.json. Empty: the address of "
        "session's HTTP port, which answers that path.",
    )

    scim_url: str = Field(
        default="",
        pattern=r"^(https?://[^/?#]+(/[^/?#]+)*)?$",
        description="What SCIM clients reach identity's HTTP port by, such as https://scim.example.com, for the "
        "locations of resources. Empty: the address of the port.",
    )

    def database(self, service: str) -> str:
        if self.database_url:
            return self.database_url.replace("{service}", service)
        return f"sqlite:///{self.var.absolute() / service}.db"

    def public_port(self, service: str) -> int:
        return self.port_base + 1 + SERVICES.index(service)

    def service_port(self, service: str) -> int:
        return self.port_base + 11 + SERVICES.index(service)

    def http_port(self, service: str) -> int:
        return self.port_base + 21 + SERVICES.index(service)

    def peer(self, service: str) -> str:
        return f"{self.peer_host.replace('{service}', service)}:{self.service_port(service)}"

    @property
    def token_issuer(self) -> str:
        return self.issuer or self._http_url("session")

    @property
    def scim_base_url(self) -> str:
        return self.scim_url or self._http_url("identity")

    def _http_url(self, service: str) -> str:
        host = f"[{self.http_host}]" if ":" in self.http_host else self.http_host
        return f"http://{host}:{self.http_port(service)}"

    @property
    def key_path(self) -> Path:
        return self.key_file or self.var / "keys" / "installation.key"

    @property
    def tls_path(self) -> Path:
        return self.tls_folder or self.var / "tls"

    @property
    def reflects(self) -> bool:
        loopback = self.host == "localhost" or self.host.startswith("127.") or self.host == "::1"
        return self.reflection == "on" or (self.reflection == "auto" and loopback)


def describe() -> list[tuple[str, str, str]]:
    """Each variable with its default and its meaning."""
    return [
        (f"{PREFIX}{name.upper()}", "" if field.default is None else str(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
