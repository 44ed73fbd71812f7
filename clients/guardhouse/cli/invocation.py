"""What every command is given: the client, the organization, and one way to answer."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import typer
from google.protobuf.message import Message

from guardhouse.channel import DEADLINE
from guardhouse.cli import output
from guardhouse.client import Client, connect
from guardhouse.errors import AccessDenied, GuardhouseError
from guardhouse.identity.v1 import identity_pb2 as identity

PAGE_SIZE: Final = 1000
BATCH_SIZE: Final = 1000

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)


class Invocation:
    """One run of the command line."""

    def __init__(self, profile: Path | None, organization_id: str, as_json: bool, deadline: float = DEADLINE) -> None:
        self.as_json = as_json
        self.profile = profile
        self.closing: list[Callable[[], None]] = []
        self._deadline = deadline
        self._organization_id = organization_id

    @cached_property
    def client(self) -> Client:
        client = connect(self.profile, deadline=self._deadline)
        self.closing.append(client.close)
        return client

    @cached_property
    def organization_id(self) -> str:
        """The organization that is named, else the profile's, else the only one there is."""
        if named := self.named_organization_id:
            return named
        try:
            found = self.client.organizations.ListOrganizations(identity.ListOrganizationsRequest(page_size=2))
        except AccessDenied:
            raise typer.BadParameter("this key cannot list the organizations: name its own", param_hint="-o") from None
        if not found.organizations:
            raise typer.BadParameter("there is none yet: guardhouse organizations create NAME", param_hint="-o")
        if len(found.organizations) > 1:
            raise typer.BadParameter(
                "there are several: name one of `guardhouse organizations list`, here or in GUARDHOUSE_ORGANIZATION",
                param_hint="-o",
            )
        return found.organizations[0].organization_id

    @property
    def named_organization_id(self) -> str:
        """The organization that is named, else the profile's; empty: neither is."""
        return self._organization_id or self.client.profile.organization_id

    def close(self) -> None:
        for close in self.closing:
            close()

    def show(self, response: Message, **more: str) -> None:
        """Prints an answer: for people a record of the message in it, with more rows."""
        if self.as_json:
            output.print_json(response)
        else:
            output.print_record(output.content(response), more)

    def show_secret(self, response: Message, **secret: str) -> None:
        """As show, for an answer that holds what is shown once."""
        self.show(response, **secret)
        output.note(f"The {' and '.join(secret).replace('_', ' ')} above is not shown again: store it now.")

    def show_all(self, method: Callable[[M], Message], request: M, limit: int | None, columns: str) -> None:
        """Prints a list of however many pages; the columns are as output.print_table wants them."""
        whole = self.listed(method, request, limit)
        if self.as_json:
            output.print_json(whole)
        else:
            output.print_table(output.items(whole), columns)

    def listed(self, method: Callable[[M], Message], request: M, limit: int | None = None) -> Message:
        """The pages of a list as one answer, with at most `limit` items."""
        with output.waiting("Reading ...") as say:
            first, *rest = self._told(pages(method, request, limit), say)
        for page in rest:
            first.MergeFrom(page)
        first.ClearField("next_page_token")
        return first

    @staticmethod
    def _told(found: Iterator[R], say: Callable[[str], None]) -> Iterator[R]:
        number = 0
        for page in found:
            number += len(output.items(page))
            say(f"Reading ... {number} so far")
            yield page

    def done(self, response: Message, sentence: str) -> None:
        """Answers what has nothing to show."""
        if self.as_json:
            output.print_json(response)
        else:
            output.print_line(sentence)

    def show_results(self, response: Message, results: Sequence[Any], outcome: str) -> None:
        """Prints what became of each item of a batch; exits with 1 when one failed."""
        if self.as_json:
            output.print_json(response)
        for result in results:
            if result.HasField("error"):
                reason = output.word(result.error.DESCRIPTOR.fields_by_name["reason"].enum_type, result.error.reason)
                output.error(f"{result.registration_id}: {result.error.message} [{reason.upper().replace('-', '_')}]")
            elif not self.as_json:
                output.print_line(f"{result.registration_id} {outcome}")
        if any(result.HasField("error") for result in results):
            raise typer.Exit(1)

    def destroy(self, method: Callable[[M], R], request: M, would: Callable[[R], str], yes: bool, dry_run: bool) -> R:
        """Makes a call that cannot be undone, once somebody has agreed to what it would do."""
        if dry_run:
            self.rehearse(method, request, would)
        if not yes:
            self.agree(method, request, would)
        return method(request)

    def agree(self, method: Callable[[M], R], request: M, would: Callable[[R], str]) -> None:
        """Asks whether what a call would do is wanted."""
        must_be_interactive()
        shown = method(_rehearsal(request))
        typer.confirm(f"{output.printable(would(shown))} Continue?", abort=True, err=True)
        if "etag" in request.DESCRIPTOR.fields_by_name and not request.etag:  # type: ignore[attr-defined]
            # What was shown is what is destroyed, or nothing.
            request.etag = output.content(shown).etag  # type: ignore[attr-defined]

    def rehearse(self, method: Callable[[M], R], request: M, would: Callable[[R], str]) -> NoReturn:
        """Says what a call would do, and ends."""
        response = method(_rehearsal(request))
        self.done(response, would(response))
        raise typer.Exit


def pages(method: Callable[[M], R], request: M, limit: int | None = None, size: int = PAGE_SIZE) -> Iterator[R]:
    """The pages of a list, with at most `limit` items altogether."""
    left = limit or sys.maxsize
    page: Any = request
    while True:
        page.page_size = min(size, left)
        response: Any = method(page)
        yield response
        left -= len(output.items(response))
        page.page_token = response.next_page_token
        if not page.page_token or left <= 0:
            return


def batches(method: Callable[[M], R], request: M, field: str, label: str) -> Iterator[R]:
    """Makes a call with however many items the field has, as calls of as many as one may have."""
    items = list(getattr(request, field))
    parts = [items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE)] or [[]]
    done = 0
    with output.progress() as bars:
        task = bars.add_task(label, total=len(items), visible=len(parts) > 1)
        for part in parts:
            batch: Any = type(request)()
            batch.CopyFrom(request)
            batch.ClearField(field)
            getattr(batch, field).extend(part)
            try:
                response = method(batch)
            except GuardhouseError:
                if done:
                    output.error(f"{done} of {len(items)} were done; the others were not, because of what follows")
                raise
            yield response
            done += len(part)
            bars.update(task, completed=done)


def joined(responses: Iterator[R]) -> R:
    """The answers of batches as one: its lists are joined and its numbers added; of the rest the last one's stands."""
    whole: Any = next(responses)
    counts = [field.name for field in whole.DESCRIPTOR.fields if field.cpp_type == field.CPPTYPE_INT32]
    for response in responses:
        sums = {name: getattr(whole, name) + getattr(response, name) for name in counts}
        whole.MergeFrom(response)
        for name, value in sums.items():
            setattr(whole, name, value)
    one: R = whole
    return one


def _rehearsal(request: M) -> M:
    copy: Any = type(request)()
    copy.CopyFrom(request)
    copy.validate_only = True
    rehearsal: M = copy
    return rehearsal


def must_be_interactive() -> None:
    if not is_interactive():
        raise typer.BadParameter("nobody can be asked here: pass --yes to go ahead", param_hint="--yes")


def is_interactive() -> bool:
    return sys.stdin.isatty()


class Context(typer.Context):
    """Typer's context with what the callback put into it."""

    obj: Invocation
