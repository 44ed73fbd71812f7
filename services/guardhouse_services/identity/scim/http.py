"""The requests of SCIM clients (RFC 7644), at /scim/v2/{identity_provider_id} of identity's HTTP port."""

import asyncio
import hashlib
import ipaddress
import json
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from pydantic import ValidationError
from scim2_models import (
    Context,
    Error,
    ForbiddenException,
    InvalidFilterException,
    InvalidSyntaxException,
    NotFoundException,
    NotImplementedException,
    PatchOp,
    PatchOperation,
    PayloadTooLargeException,
    PreconditionFailedException,
    ResponseParameters,
    SCIMException,
    ScimFilter,
    SearchRequest,
)
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guardhouse.errors import GuardhouseError, InvalidField, RateLimited, Unavailable
from guardhouse.ids import IDENTITY_PROVIDER, check_id
from guardhouse_services.identity.domain.scim import Client, Kind, Resource
from guardhouse_services.identity.scim.resources import (
    BODY_BYTES,
    ENDPOINTS,
    MAX_RESULTS,
    MODELS,
    POLICY,
    PROVIDER,
    RELATED,
    check_text,
    etag,
    from_model,
    location,
    new,
    related,
    to_model,
)
from guardhouse_services.identity.scim.tally import Tally
from guardhouse_services.identity.store.scim_filters import narrow
from guardhouse_services.identity.usecases.scim import ID_PREFIX, Scim, Search
from guardhouse_services.rate_limit import RateLimit, limited

log = logging.getLogger(__name__)

PATH: Final = "/scim/v2/{identity_provider_id}"
MEDIA_TYPE: Final = "application/scim+json"
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
DEFAULT_RESULTS = 100
FILTER_CHARACTERS = 4096
BODY_SECONDS = 10.0
OPERATIONS = 100
"""How many a PATCH has."""
ENTRIES = 100
"""How many values the attributes of a user have together."""
FILTERED = 500
"""How many members of a group a PATCH compares with the filters of its paths: about a second."""
PATCH_SECONDS = 2.0
"""How long applying a PATCH takes at most. Nobody else can change anything of the provider's meanwhile."""
AT_ONCE = 2
"""How many requests a replica works on at a time: filters and large groups take their time, and others want it, too."""
FAMILIAR = 1000
"""How many secrets that were good are remembered, as hashes."""
FAILURES_RATE, FAILURES_BURST = 10.0, 200
"""How many refusals of a provider's client are logged."""

_DISCOVERY: Final = ("ServiceProviderConfig", "ResourceTypes", "Schemas")
_KINDS: Final = {name: kind for kind, name in ENDPOINTS.items()}
# One model for each kind of request; to make one takes long.
_SEARCHES: Final[Mapping[Kind | None, Any]] = {
    **{kind: SearchRequest.__class_getitem__(model) for kind, model in MODELS.items()},
    None: SearchRequest.__class_getitem__(MODELS[Kind.USER] | MODELS[Kind.GROUP]),
}
_FILTERS: Final[Mapping[Kind, Any]] = {kind: ScimFilter.__class_getitem__(model) for kind, model in MODELS.items()}
_PATCHES: Final[Mapping[Kind, Any]] = {kind: PatchOp.__class_getitem__(model) for kind, model in MODELS.items()}
_PARAMETERS: Final[Mapping[Kind, Any]] = {
    kind: ResponseParameters.__class_getitem__(model) for kind, model in MODELS.items()
}
_MEMBER: Final = re.compile(r'members\[\s*value\s+eq\s+"([^"\\]*)"\s*\]', re.IGNORECASE)
_PART_OF_RELATED: Final = re.compile(r"\b(members|groups)\.", re.IGNORECASE)
_COMPARISON: Final = re.compile(r"\b(?:eq|ne|co|sw|ew|pr|gt|ge|lt|le)\b", re.IGNORECASE)
_MANAGER: Final = "enterprise:2.0:user:manager"


class MethodNotAllowed(SCIMException):
    status = 405
    _default_detail = "The endpoint does not take this method"


class TooManyRequests(SCIMException):
    status = 429
    _default_detail = "Too many requests with unknown secrets; wait a moment"


class Unanswered(SCIMException):
    status = 503
    _default_detail = "The service cannot answer now; try again"


class Failed(SCIMException):
    status = 500
    _default_detail = "The request failed"


def route(scim: Scim, base_url: str, strangers: RateLimit, tally: Tally) -> Route:
    """Serves SCIM clients. `base_url` is what they reach the port by; `strangers` bounds unknown secrets by address."""
    endpoint = _Endpoint(scim, base_url, strangers, tally)
    return Route(PATH + "{rest:path}", endpoint.answer, methods=METHODS)


class _Endpoint:
    def __init__(self, scim: Scim, base_url: str, strangers: RateLimit, tally: Tally) -> None:
        self._scim = scim
        self._tally = tally
        self._base_url = base_url
        self._strangers = strangers
        self._familiar: OrderedDict[bytes, None] = OrderedDict()
        self._failures = RateLimit(FAILURES_RATE, FAILURES_BURST)
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def answer(self, request: Request) -> Response:
        began = time.perf_counter()
        answer = await self._answer(request)
        self._tally.note(request.method, answer.status_code, time.perf_counter() - began)
        return answer

    async def _answer(self, request: Request) -> Response:
        client: Client | None = None
        try:
            client = await self._client(request)
            _check_method(request)
            payload = await _payload(request) if request.method in ("POST", "PUT", "PATCH") else {}
            async with self._turn:
                return await self._dispatch(client, request, payload)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is answered
            failure = _failure(error)
        if client is not None:
            await self._log(client, request, failure)
        headers = {"WWW-Authenticate": "Bearer"} if failure.status == 401 else {}
        return _json(failure.to_error().model_dump(), failure.status, headers)

    async def _client(self, request: Request) -> Client:
        """Raises UnauthorizedException, ForbiddenException and TooManyRequests."""
        provider_id = request.path_params["identity_provider_id"]
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(f"{provider_id} {bearer}".encode()).digest()
        stranger = _limited(request)
        if digest not in self._familiar:
            self._strangers.check(stranger)
        try:
            check_id(provider_id, IDENTITY_PROVIDER, "identity_provider_id")
            client = await self._scim.client(provider_id, bearer.strip() if scheme.lower() == "bearer" else "")
        except (InvalidField, SCIMException) as error:
            self._familiar.pop(digest, None)
            self._strangers.charge(stranger)
            if isinstance(error, SCIMException):
                raise
            raise NotFoundException from None
        self._familiar[digest] = None
        if len(self._familiar) > FAMILIAR:
            self._familiar.popitem(last=False)
        return client

    async def _log(self, client: Client, request: Request, failure: SCIMException) -> None:
        """What was refused, but for reading what is not there."""
        if request.method == "GET" and failure.status in (404, 405):
            return
        try:
            self._failures.take(client.name)
            kind, resource_id = _named(request)
            await self._scim.failed(client, request.method, kind, resource_id, failure)
        except RateLimited:
            log.debug("too many SCIM requests are refused to log each")
        except GuardhouseError as error:
            log.warning("a refused SCIM request is not in its log: %s", error.message)

    async def _dispatch(self, client: Client, request: Request, payload: dict[str, Any]) -> Response:
        base = f"{self._base_url}/scim/v2/{client.identity_provider_id}"
        parts = _parts(request)
        name, rest = (parts[0], parts[1:]) if parts else ("", [])
        if name in _DISCOVERY:
            return _discover(request, name, rest, base)
        if parts in (["Bulk"], ["Me"]):
            raise NotImplementedException
        if parts == [".search"]:
            return await self._search(client, list(Kind), payload, base)
        if (kind := _KINDS.get(name)) is None or len(rest) > 1:
            raise NotFoundException
        if rest == [".search"]:
            return await self._search(client, [kind], payload, base)
        if rest:
            return await self._resource(client, request, kind, rest[0], payload, base)
        if request.method == "POST":
            return await self._create(client, request, kind, payload, base)
        return await self._search(client, [kind], dict(request.query_params), base)

    async def _search(self, client: Client, kinds: Sequence[Kind], payload: Mapping[str, Any], base: str) -> Response:
        """Of several kinds, one behind the other."""
        if len(str(payload.get("filter", ""))) > FILTER_CHARACTERS:
            raise InvalidFilterException(detail=f"a filter has at most {FILTER_CHARACTERS} characters")
        key = kinds[0] if len(kinds) == 1 else None
        wanted: Any = _SEARCHES[key].model_validate(payload, scim_policy=POLICY)
        if wanted.sort_by is not None and key is None:
            raise NotImplementedException(detail="resources of several types are not sorted")
        start = wanted.start_index or 1
        count = DEFAULT_RESULTS if wanted.count is None else min(wanted.count, MAX_RESULTS)
        total, found = 0, list[Resource]()
        for kind in kinds:
            here = _search_of(client, kind, wanted, max(start - total, 1), count - len(found))
            result = await self._scim.search(client, here)
            found += result.resources
            total += result.total
        shown = await asyncio.to_thread(lambda: [_dump(it, base, wanted) for it in found])
        return _json(_list(total, shown, start))

    async def _create(
        self, client: Client, request: Request, kind: Kind, payload: Mapping[str, Any], base: str
    ) -> Response:
        parameters = _parameters(request, kind)
        _check_entries(kind, payload)
        model = MODELS[kind].model_validate(
            _writable(kind, payload), scim_ctx=Context.RESOURCE_CREATION_REQUEST, scim_policy=POLICY
        )
        if kind is Kind.USER and model.active is None:
            model.active = True
        made = await self._scim.create(client, from_model(new(kind), model), request.method)
        return await _show(made, base, parameters, 201, {"Location": location(made, base)})

    async def _resource(
        self, client: Client, request: Request, kind: Kind, resource_id: str, payload: Mapping[str, Any], base: str
    ) -> Response:
        try:
            check_id(resource_id, ID_PREFIX[kind], "id")
        except InvalidField:
            raise NotFoundException(detail=f"there is no such {kind.name.lower()}") from None
        parameters = _parameters(request, kind)
        method = request.method
        if method == "DELETE":
            await self._scim.delete(client, kind, resource_id, method, lambda it: _check_etag(request, it))
            return Response(status_code=204)
        if method != "GET":
            if method == "PUT":
                change, among = _replacement(request, kind, payload), None
            else:
                change, among = _patch(request, kind, payload)
            changed = await self._scim.change(client, kind, resource_id, method, change, among)
            if method == "PATCH" and kind is Kind.GROUP and not parameters.attributes:
                # It may have ten thousand members.
                return Response(status_code=204, headers={"ETag": etag(changed)})
        found = await self._scim.get(client, kind, resource_id, with_members=_shows_related(parameters))
        if method == "GET" and etag(found) in _etags(request, "if-none-match"):
            return Response(status_code=304, headers={"ETag": etag(found)})
        return await _show(found, base, parameters, 200, {})


def _search_of(client: Client, kind: Kind, wanted: Any, start: int, count: int) -> Search:
    text, matches = "", None
    which: Sequence[sa.ColumnElement[bool]] = ()
    if wanted.filter is not None:
        text = str(wanted.filter)
        bound: Any = _FILTERS[kind](text)
        found = narrow(client, kind, bound)
        which = () if found.which is None else (found.which,)
        if not found.is_exact:
            matches = lambda it: bound.match(to_model(it))  # noqa: E731

    def sort(resources: Sequence[Resource]) -> list[Resource]:
        by_id = {it.resource_id: it for it in resources}
        return [by_id[model.id] for model in wanted.sort([to_model(it) for it in resources])]

    return Search(
        kind,
        start,
        count,
        which,
        matches,
        len(_COMPARISON.findall(text)),
        sort if wanted.sort_by is not None else None,
        _shows_related(wanted) or any(name in text.lower() for name in ("members", "groups")),
    )


def _failure(error: Exception) -> SCIMException:
    match error:
        case SCIMException():
            return error
        case ValidationError():
            return SCIMException.from_error(Error.from_validation_errors(error)[0])
        case RateLimited():
            return TooManyRequests()
        case Unavailable():
            return Unanswered()
        case RecursionError():
            return InvalidSyntaxException(detail="the body is nested too deeply")
    log.error("a SCIM request failed", exc_info=error)
    return Failed()


def _limited(request: Request) -> str:
    """Who is limited as one."""
    try:
        return limited(ipaddress.ip_address(request.client.host if request.client else ""))
    except ValueError:
        return limited(None)


def _parts(request: Request) -> list[str]:
    rest: str = request.path_params["rest"]
    return rest.strip("/").split("/") if rest.strip("/") else []


def _check_method(request: Request) -> None:
    """Raises MethodNotAllowed. What there is not is found out later."""
    parts = _parts(request)
    allowed: Sequence[str] = METHODS
    if parts[-1:] == [".search"]:
        allowed = ("POST",)
    elif parts and parts[0] in _DISCOVERY:
        allowed = ("GET",)
    elif parts and parts[0] in _KINDS:
        allowed = ("GET", "POST") if len(parts) == 1 else ("GET", "PUT", "PATCH", "DELETE")
    if request.method not in allowed:
        raise MethodNotAllowed


def _named(request: Request) -> tuple[Kind | None, str]:
    """The kind, and the id if it has the form of one."""
    parts = _parts(request)
    kind = _KINDS.get(parts[0]) if parts else None
    if kind is None or len(parts) < 2:
        return kind, ""
    try:
        return kind, check_id(parts[1], ID_PREFIX[kind], "id")
    except InvalidField:
        return kind, ""


async def _payload(request: Request) -> dict[str, Any]:
    """Raises PayloadTooLargeException, InvalidSyntaxException and InvalidValueException."""
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > BODY_BYTES:
                    raise PayloadTooLargeException(detail=f"a body has at most {BODY_BYTES >> 10} KiB")
        payload = json.loads(body)
        check_text(json.dumps(payload, ensure_ascii=False))
    except TimeoutError:
        raise InvalidSyntaxException(detail="the body did not come in time") from None
    except ValueError:
        raise InvalidSyntaxException(detail="the body is no JSON") from None
    if not isinstance(payload, dict):
        raise InvalidSyntaxException(detail="the body is no object")
    return payload


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def _list(total: int, shown: list[dict[str, Any]], start: int = 1) -> dict[str, Any]:
    return {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"],
        "totalResults": total,
        "startIndex": start,
        "itemsPerPage": len(shown),
        "Resources": shown,
    }


def _discover(request: Request, name: str, rest: list[str], base: str) -> Response:
    """What the service can do (RFC 7644, section 4)."""
    if "filter" in request.query_params:
        raise ForbiddenException(detail="what is discovered is not filtered")
    if name == "ServiceProviderConfig" and not rest and PROVIDER.config is not None:
        return _json(_described(PROVIDER.config, name, f"{base}/{name}"))
    kind, found = name.removesuffix("s"), PROVIDER.schemas if name == "Schemas" else PROVIDER.resource_types
    if not rest:
        shown = [_described(it, kind, f"{base}/{name}/{it.id}") for it in found]
        return _json(_list(len(shown), shown))
    for it in found:
        if [str(it.id)] == rest:
            return _json(_described(it, kind, f"{base}/{name}/{it.id}"))
    raise NotFoundException


def _described(what: Any, kind: str, at: str) -> dict[str, Any]:
    shown: dict[str, Any] = what.model_dump(scim_ctx=Context.RESOURCE_QUERY_RESPONSE)
    return {**shown, "meta": {"resourceType": kind, "location": at}}


def _parameters(request: Request, kind: Kind) -> Any:
    asked = {
        name: request.query_params[name]
        for name in ("attributes", "excludedAttributes")
        if name in request.query_params
    }
    return _PARAMETERS[kind].model_validate(asked, scim_policy=POLICY)


def _shows_related(parameters: Any) -> bool:
    """Whether the members of groups, or the groups of users, are asked for."""

    def names(paths: Any) -> bool:
        return any(re.search(r"\b(members|groups)$", str(path), re.IGNORECASE) for path in paths)

    if parameters.attributes:
        return any(re.search(r"\b(members|groups)\b", str(path), re.IGNORECASE) for path in parameters.attributes)
    return not names(parameters.excluded_attributes or ())


def _dump(of: Resource, base: str, parameters: Any) -> dict[str, Any]:
    # Ten thousand members take the library seconds; it is asked only where parts of them are wanted.
    named = (*(parameters.attributes or ()), *(parameters.excluded_attributes or ()))
    is_whole = not any(_PART_OF_RELATED.search(str(path)) for path in named)
    shown: dict[str, Any] = to_model(replace(of, members=()) if is_whole else of, base).model_dump(
        scim_ctx=Context.RESOURCE_QUERY_RESPONSE, response_parameters=parameters, scim_policy=POLICY
    )
    if is_whole and of.members and _shows_related(parameters):
        shown[RELATED[of.kind]] = related(of, base)
    return shown


async def _show(of: Resource, base: str, parameters: Any, status: int, headers: Mapping[str, str]) -> Response:
    shown = await asyncio.to_thread(_dump, of, base, parameters)
    return _json(shown, status, {"ETag": etag(of), **headers})


def _etags(request: Request, header: str) -> list[str]:
    return [tag.strip() for tag in request.headers.get(header, "").split(",") if tag.strip()]


def _check_etag(request: Request, of: Resource) -> None:
    """Raises PreconditionFailedException. Etags are compared weakly (RFC 7644, section 3.14)."""
    wanted = _etags(request, "if-match")
    present = etag(of).removeprefix("W/")
    if wanted and "*" not in wanted and present not in (tag.removeprefix("W/") for tag in wanted):
        raise PreconditionFailedException


def _writable(kind: Kind, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is read-only, which is ignored (RFC 7644, section 3.3)."""
    ignored = {"id", "meta"} | ({"groups"} if kind is Kind.USER else set())
    return {name: value for name, value in payload.items() if name.lower() not in ignored}


def _replacement(request: Request, kind: Kind, payload: Mapping[str, Any]) -> Callable[[Resource], Resource]:
    _check_entries(kind, payload)
    writable = _writable(kind, payload)

    def put(before: Resource) -> Resource:
        _check_etag(request, before)
        model = MODELS[kind].model_validate(writable, scim_ctx=Context.RESOURCE_REPLACEMENT_REQUEST, scim_policy=POLICY)
        model.replace(to_model(before))
        if kind is Kind.USER and model.active is None:
            model.active = before.active
        return from_model(before, model)

    return put


def _patch(
    request: Request, kind: Kind, payload: Mapping[str, Any]
) -> tuple[Callable[[Resource], Resource], set[str] | None]:
    """What it changes, and the members that it names; None where it may be any."""
    sent = next((value for name, value in payload.items() if name.lower() == "operations"), None)
    if isinstance(sent, list):
        if len(sent) > OPERATIONS:
            raise PayloadTooLargeException(detail=f"a PATCH has at most {OPERATIONS} operations")
        _check_entries(kind, *sent)
        for operation in sent:
            _mend(operation)
    patch = _PATCHES[kind].model_validate(payload, scim_ctx=Context.RESOURCE_PATCH_REQUEST, scim_policy=POLICY)
    operations = patch.operations or []
    among = _named_members(operations)

    def apply(before: Resource) -> Resource:
        _check_etag(request, before)
        filters = sum("[" in str(it.path) for it in operations)
        if among is None and filters * len(before.members) > FILTERED:
            raise PayloadTooLargeException(detail="too many filters for so many members; name members by their value")
        model = to_model(before)
        began = time.monotonic()
        for operation in operations:
            if time.monotonic() - began > PATCH_SECONDS:
                raise PayloadTooLargeException(detail="the PATCH takes too long; send fewer operations")
            patch.model_copy(update={"operations": [operation]}).patch(model, scim_policy=POLICY)
        changed = from_model(before, model)
        # One that has too many from before may lose some.
        if _entries(changed.document) > max(ENTRIES, _entries(before.document)):
            _check_entries(kind, changed.document)
        return changed

    return apply, among


def _check_entries(kind: Kind, *values: Any) -> None:
    """Raises PayloadTooLargeException: each value of a PATCH may be compared with each that is there. How many members
    a group may have is another matter."""
    if kind is Kind.USER and sum(map(_entries, values)) > ENTRIES:
        raise PayloadTooLargeException(detail=f"the attributes of a user have at most {ENTRIES} values together")


def _entries(value: Any) -> int:
    """In lists, at any depth, but for the names of schemas."""
    if isinstance(value, list):
        return len(value) + sum(map(_entries, value))
    if isinstance(value, dict):
        return sum(_entries(each) for name, each in value.items() if name.lower() != "schemas")
    return 0


def _mend(operation: Any) -> None:
    """Entra ID sends a manager's id where the manager goes."""
    if isinstance(operation, dict):
        value = operation.get("value")
        if isinstance(value, str) and str(operation.get("path", "")).lower().endswith(_MANAGER):
            operation["value"] = {"value": value}


def _named_members(operations: Any) -> set[str] | None:
    """The members that adding to and removing from a group is about, so that the others need not be read."""
    named: set[str] = set()
    for operation in operations:
        whole = operation.value if isinstance(operation.value, dict) else {}
        parts = whole if operation.path is None else {str(operation.path): operation.value}
        for path, value in parts.items():
            found = _named_by(operation.op, path, value)
            if found is None:
                return None
            named |= found
    return named


def _named_by(op: Any, path: str, value: Any) -> set[str] | None:
    if "members" not in path.lower():
        return set()
    is_whole = path.lower().endswith("members")
    if is_whole and value and op in (PatchOperation.Op.add, PatchOperation.Op.remove):
        entries = value if isinstance(value, list) else [value]
        ids = [str(entry.get("value")) for entry in entries if isinstance(entry, dict)]
        return set(ids) if len(ids) == len(entries) else None
    one = _MEMBER.fullmatch(path.rpartition(":")[2])
    return {one[1]} if one and op is PatchOperation.Op.remove else None
