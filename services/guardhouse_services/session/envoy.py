"""Envoy's filters, answered by CheckTraffic: the HTTP filter for each request, the TCP filter for each connection.

Whose traffic it is follows from the address of Envoy's direct peer alone; what a request says of itself is matched by
policies, and believed in nothing else.
"""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import grpc

from guardhouse.envoy.v1 import authorization_pb2 as pb
from guardhouse.errors import FieldRequired, InvalidField
from guardhouse.session.v1 import session_pb2 as session
from guardhouse_services.access import Call, check_scope


class Reply(Protocol):
    """A CheckTrafficResponse, or what serialises to one."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802  # as messages have it


CheckTraffic = Callable[[session.CheckTrafficRequest, Call], Awaitable[Reply]]

ORGANIZATION: Final = "guardhouse_organization_id"
"""The context extension that names the organization, for a key of the installation."""
SIGN_IN_URL: Final = "guardhouse_sign_in_url"
"""The context extension that says where browsers are sent to sign in."""

USER, REGISTRATION, POLICY = "x-guardhouse-user", "x-guardhouse-registration", "x-guardhouse-policy"

_ALLOW, _REAUTHENTICATE = session.DECISION_ALLOW, session.DECISION_REAUTHENTICATE
_AUTHORITY: Final = re.compile(r"(\[[^\]]*\]|[^:]*):?0*(.*)", re.DOTALL)
"""A host, and a port that a client may write behind it."""
_PORTS: Final = {"http": "80", "https": "443"}

Said = dict[str, str]
"""An answer, for access logs, other filters and clients."""
Refusal = tuple[int, grpc.StatusCode]
"""The status by HTTP, and by gRPC."""
_UNAUTHORIZED: Final[Refusal] = (401, grpc.StatusCode.UNAUTHENTICATED)
_FORBIDDEN: Final[Refusal] = (403, grpc.StatusCode.PERMISSION_DENIED)
# It says nothing of whoever asks, who may ask again.
_UNAVAILABLE: Final[Refusal] = (503, grpc.StatusCode.UNAVAILABLE)
_BAD_REQUEST: Final[Refusal] = (400, grpc.StatusCode.INVALID_ARGUMENT)
# RFC 9110, section 15.5.20: a client that uses one connection for several hosts opens another for this one.
_MISDIRECTED: Final[Refusal] = (421, grpc.StatusCode.FAILED_PRECONDITION)

INVALID: Final[Said] = {"decision": "BLOCK", "reason": InvalidField.reason}
"""Of what no policy can be asked about."""
NEXT: Final = {
    session.DECISION_REASON_NO_POLICY_MATCHED: "no policy allows this; ask whoever administers your network",
    session.DECISION_REASON_POLICY_BLOCK: "a policy forbids this; ask whoever administers your network",
    session.DECISION_REASON_SESSION_EXPIRED: "your session is too old for this; sign in again",
    session.DECISION_REASON_SESSION_REVOKED: "your session was ended; sign in again",
    session.DECISION_REASON_REGISTRATION_REVOKED: "this device is locked out; ask whoever administers your network",
    session.DECISION_REASON_REGISTRATION_UNKNOWN: "this address belongs to no device; enroll the device",
    session.DECISION_REASON_USER_REMOVED: "you were removed; enroll the device again, if you may",
    session.DECISION_REASON_STATE_STALE: "nobody can tell at the moment whether you may; try again",
}
"""What to do about a refusal."""


class EnvoyServicer:
    """envoy.service.auth.v3.Authorization."""

    def __init__(self, check: CheckTraffic) -> None:
        self._check = check

    async def Check(self, request: pb.CheckRequest, call: Call) -> pb.CheckResponse:  # noqa: N802  # Envoy's name
        of = request.attributes
        is_request = of.request.HasField("http")
        if is_request and (sni := of.tls_session.sni) and _plain(sni) != _plain(_authority(of.request.http)[0]):
            # Policies on net.sni.host would be asked about one host, and the request would go to another.
            return _refusal(of, _MISDIRECTED, INVALID, "this TLS session is for another host; open one for this host")
        asked = session.CheckTrafficRequest(
            organization_id=_organization_id(of, call),
            address=_address(of),
            kind=session.TRAFFIC_KIND_REQUEST if is_request else session.TRAFFIC_KIND_CONNECTION,
        )
        _describe(of, asked.traffic)
        try:
            reply = await self._check(asked, call)
        except InvalidField as invalid:
            if not invalid.field.startswith("traffic"):
                raise
            # What the client sent is more than a policy can be asked about, so it is told, and nobody is alarmed.
            return _refusal(of, _BAD_REQUEST, INVALID, invalid.message)
        answer = session.CheckTrafficResponse.FromString(reply.SerializeToString()).answer
        said = _said(answer)
        if answer.decision == _ALLOW:
            return _permission(of, answer, said)
        kind = _FORBIDDEN
        if answer.decision == _REAUTHENTICATE:
            kind = _UNAUTHORIZED
        elif answer.reason == session.DECISION_REASON_STATE_STALE:
            kind = _UNAVAILABLE
        return _refusal(of, kind, said, NEXT.get(answer.reason, ""))


def _organization_id(of: pb.AttributeContext, call: Call) -> str:
    """The key's, or else the one that Envoy's configuration names. Raises FieldRequired and AccessDenied."""
    named = of.context_extensions.get(ORGANIZATION, "")
    organization_id = call.caller.organization_id or named
    if not organization_id:
        field = f"attributes.context_extensions.{ORGANIZATION}"
        raise FieldRequired(field, f"{field} is required: the key is of the whole installation")
    if named:
        check_scope(call.caller, call.method, named, "")
    return organization_id


def _address(of: pb.AttributeContext) -> str:
    """Raises InvalidField."""
    address = of.source.address.socket_address.address
    if not address:
        raise InvalidField("attributes.source.address", "attributes.source.address is no IP address")
    return address


def _describe(of: pb.AttributeContext, traffic: session.Traffic) -> None:
    """What policies may ask about. What Envoy does not know is missing, and makes every comparison but != false."""
    fields, lists = traffic.fields, traffic.lists
    source, destination, http = of.source.address.socket_address, of.destination.address.socket_address, of.request.http
    for side, end in (("src", source), ("dst", destination)):
        if end.address:
            fields[f"net.{side}.ip"] = end.address
            fields[f"net.{side}.port"] = str(end.port_value)
    # HTTP/3 runs over QUIC, and nothing else that Envoy asks about over UDP.
    fields["net.protocol"] = "udp" if http.protocol == "HTTP/3" else "tcp"
    if sni := of.tls_session.sni or of.destination.service:
        fields["net.sni.host"] = sni
    if not of.request.HasField("http"):
        return
    for side, end in (("src", source), ("dst", destination)):
        if end.address:
            lists[f"http.conn.{side}_ip"].values.append(end.address)
    fields["http.request.method"] = http.method
    if http.host:
        host, port = _authority(http)
        fields["http.request.host"] = host
        # A policy on the URI compares to the letter, so it is asked about the one spelling (RFC 3986, section 6.2).
        shown = f":{port}" if port and port != _PORTS.get(http.scheme) else ""
        fields["http.request.uri"] = f"{http.scheme}://{_plain(host)}{shown}{http.path}"
    if http.path:
        path, _, query = http.path.partition("?")
        fields["http.request.uri.path"] = path
        fields["http.request.uri.query"] = query
        fields["http.request.uri.path_and_query"] = http.path


def _authority(http: pb.AttributeContext.HttpRequest) -> tuple[str, str]:
    """The host and the port."""
    host, port = _AUTHORITY.fullmatch(http.host).groups()  # type: ignore[union-attr]  # it matches any text
    return host, port


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")


def _said(answer: session.CheckAnswer) -> Said:
    said = {
        "decision": session.Decision.Name(answer.decision).removeprefix("DECISION_"),
        "reason": session.DecisionReason.Name(answer.reason).removeprefix("DECISION_REASON_"),
        "policy_id": answer.policy_id,
        "registration_id": answer.registration_id,
        "user_id": answer.user_id,
    }
    return {name: value for name, value in said.items() if value}


def _permission(of: pb.AttributeContext, answer: session.CheckAnswer, said: Said) -> pb.CheckResponse:
    response = pb.CheckResponse()
    response.dynamic_metadata.update(said)
    if of.request.HasField("http"):
        allowed = response.ok_response
        about = ((USER, answer.user_id), (REGISTRATION, answer.registration_id), (POLICY, answer.policy_id))
        for name, value in about:
            # One that there is nothing to say about is taken away: what passes with that name is from here.
            if value:
                _add(allowed.headers, name, value)
            else:
                allowed.headers_to_remove.append(name)
    return response


def _refusal(of: pb.AttributeContext, kind: Refusal, said: Said, advice: str) -> pb.CheckResponse:
    status, code = kind
    response = pb.CheckResponse(status=pb.Status(code=code.value[0], message=said["reason"]))
    response.dynamic_metadata.update(said)
    if not of.request.HasField("http"):
        return response
    body = {**said, "next": advice}
    denied = response.denied_response
    denied.status.code = status
    if kind is _UNAUTHORIZED:
        # RFC 9110, section 11.6.1: a 401 says how to become welcome. Names and ids need no quoting.
        about = "".join(f', {name}="{said[name]}"' for name in ("reason", "policy_id") if name in said)
        _add(denied.headers, "www-authenticate", f'Guardhouse realm="guardhouse"{about}')
        if sign_in_url := _sign_in_url(of, said["registration_id"]):
            body["sign_in_url"] = sign_in_url
            if _is_browser(of.request.http):
                denied.status.code = 302
                _add(denied.headers, "location", sign_in_url)
    elif kind is _UNAVAILABLE:
        _add(denied.headers, "retry-after", "1")
    _add(denied.headers, "content-type", "application/json")
    _add(denied.headers, "cache-control", "no-store")
    denied.body = json.dumps(body) + "\n"
    return response


def _sign_in_url(of: pb.AttributeContext, registration_id: str) -> str:
    """Where to sign in, if Envoy's configuration says it: with who is to, and where they wanted to go."""
    if not (url := of.context_extensions.get(SIGN_IN_URL, "")):
        return ""
    http = of.request.http
    about = {"registration_id": registration_id, "return_to": f"{http.scheme}://{http.host}{http.path}"}
    return f"{url}{'&' if '?' in url else '?'}{urlencode(about)}"


def _is_browser(http: pb.AttributeContext.HttpRequest) -> bool:
    """Whether somebody looks at a page: only then a redirect leads somewhere, and repeats nothing."""
    return http.method == "GET" and "text/html" in http.headers.get("accept", "").lower()


def _add(headers: Any, name: str, value: str) -> None:
    headers.add(
        header=pb.HeaderValue(key=name, value=value),
        append_action=pb.HeaderValueOption.HEADER_APPEND_ACTION_OVERWRITE_IF_EXISTS_OR_ADD,
    )
