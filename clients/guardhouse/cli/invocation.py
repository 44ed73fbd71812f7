"""What every command is given: the client, the organization, and one way to answer."""

import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import typer
from google.protobuf.message import Message

from guardhouse.cli import output
from guardhouse.client import Client, connect
from guardhouse.errors import AccessDenied
from guardhouse.identity.v1 import identity_pb2 as identity

PAGE_SIZE = 200

M = TypeVar("M", bound=Message)


class Invocation:
    """One run of the command line."""

    def __init__(self, profile: Path | None, organization_id: str, as_json: bool) -> None:
        self.as_json = as_json
        self._profile = profile
        self._organization_id = organization_id

    @cached_property
    def client(self) -> Client:
        return connect(self._profile)

    @cached_property
    def organization_id(self) -> str:
        """The organization that is named, else the profile's, else the only one there is."""
        if named := self._organization_id or self.client.profile.organization_id:
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

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()

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
        with output.waiting("Reading ..."):
            whole = self.pages(method, request, limit)
        if self.as_json:
            output.print_json(whole)
        else:
            output.print_table(output.items(whole), columns)

    def pages(self, method: Callable[[M], Any], request: M, limit: int | None = None) -> Message:
        """The pages of a list as one answer, with at most `limit` items."""
        whole: Message | None = None
        left = limit or sys.maxsize
        page: Any = request
        while True:
            page.page_size = min(PAGE_SIZE, left)
            response = method(page)
            if whole is None:
                whole = type(response)()
            whole.MergeFrom(response)
            left -= len(output.items(response))
            page.page_token = response.next_page_token
            if not page.page_token or left <= 0:
                whole.ClearField("next_page_token")
                return whole

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

    def confirm(self, question: str, yes: bool) -> None:
        """Asks before what cannot be undone."""
        if yes:
            return
        if not is_interactive():
            raise typer.BadParameter("nobody can be asked here: pass --yes to go ahead", param_hint="--yes")
        typer.confirm(question, abort=True, err=True)


def is_interactive() -> bool:
    return sys.stdin.isatty()


class Context(typer.Context):
    """Typer's context with what the callback put into it."""

    obj: Invocation
