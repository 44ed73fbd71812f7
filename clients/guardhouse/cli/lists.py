"""Named lists, which the expressions of policies share."""

from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from guardhouse.cli import output
from guardhouse.cli.complete import ids
from guardhouse.cli.invocation import Context
from guardhouse.cli.options import DryRun, Etag, Limit, Yes, current
from guardhouse.session.v1 import session_pb2 as pb

app = typer.Typer(no_args_is_help=True)

ListId = Annotated[str, typer.Argument(metavar="LIST", autocompletion=ids("lists", "name"))]
Type = Literal["ip", "host", "email", "text", "integer"]
Values = Annotated[list[str] | None, typer.Argument(metavar="[VALUE]...", show_default=False)]
File = Annotated[
    typer.FileText | None, typer.Option(metavar="FILE", help="More values, one a line; - is standard input.")
]
NAME = "What expressions call it: net.dst.ip in $NAME."


@app.command("list")
def list_lists(ctx: Context, limit: Limit = None) -> None:
    """List the lists, without their values."""
    it = ctx.obj
    request = pb.ListListsRequest(organization_id=it.organization_id)
    columns = "list_id name type value_count description update_time"
    it.show_all(it.client.lists.ListLists, request, limit, columns)


@app.command("show")
def show_list(ctx: Context, list_id: ListId) -> None:
    """Show a list with its values."""
    it = ctx.obj
    it.show(it.client.lists.GetList(pb.GetListRequest(organization_id=it.organization_id, list_id=list_id)))


@app.command("create")
def create_list(
    ctx: Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help=NAME)],
    type_: Annotated[Type, typer.Option("--type", help="What its values are. It stays so.")],
    values: Values = None,
    file: File = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
) -> None:
    """Create a list of the values that are named; it may be empty yet."""
    it = ctx.obj
    made = pb.List(
        name=name, description=description, type=output.value(pb.ListType, type_), values=_values(values, file)
    )
    it.show(it.client.lists.CreateList(pb.CreateListRequest(organization_id=it.organization_id, list=made)))


@app.command("update")
def update_list(
    ctx: Context,
    list_id: ListId,
    values: Values = None,
    add: Annotated[bool, typer.Option("--add", help="Add the values.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take them out.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Let it have them and no others.")] = False,
    file: File = None,
    name: Annotated[str | None, typer.Option(help=f"{NAME} While a policy uses it, it stays.")] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    etag: Etag = "",
) -> None:
    """Change what is named; the rest stays. Policies that use the list obey at once."""
    it = ctx.obj
    if add + remove + replace > 1:
        raise typer.BadParameter("say one of --add, --remove and --replace")
    if bool(values or file) != (add or remove or replace):
        raise typer.BadParameter("values need one of --add, --remove and --replace, which need values or a --file")
    changes = {"name": name is not None, "description": description is not None, "values": add or remove or replace}
    paths = [field for field, changed in changes.items() if changed]
    if not paths:
        raise typer.BadParameter("name what to change; see guardhouse lists update --help")
    named = _values(values, file)
    read = pb.GetListRequest(organization_id=it.organization_id, list_id=list_id)
    if add or remove:
        found = it.client.lists.GetList(read).list
        present = dict.fromkeys(found.values)
        if add:
            named = [*present, *named]
        else:
            if absent := [value for value in named if value not in present]:
                output.note(f"Not in it: {', '.join(absent)}.")
            gone = set(named)
            named = [value for value in present if value not in gone]
        etag = etag or found.etag
    changed = pb.List(list_id=list_id, name=name or "", description=description or "", values=named)
    changed.etag = current(etag, lambda: it.client.lists.GetList(read).list)
    request = pb.UpdateListRequest(organization_id=it.organization_id, list=changed, update_mask=FieldMask(paths=paths))
    it.show(it.client.lists.UpdateList(request))


@app.command("delete")
def delete_list(ctx: Context, list_id: ListId, etag: Etag = "", yes: Yes = False, dry_run: DryRun = False) -> None:
    """Delete a list that no policy uses."""
    it = ctx.obj
    request = pb.DeleteListRequest(organization_id=it.organization_id, list_id=list_id, etag=etag)

    def would(response: pb.DeleteListResponse) -> str:
        return f"This deletes ${response.list.name} with {output.count(response.list.value_count, 'value')}."

    response = it.destroy(it.client.lists.DeleteList, request, would, yes, dry_run)
    it.done(response, f"{list_id} deleted")


def _values(values: Sequence[str] | None, file: typer.FileText | None) -> list[str]:
    """Those that are named, and those of the file's lines."""
    lines = (line.strip() for line in file or ())
    return [*(values or ()), *filter(None, lines)]
