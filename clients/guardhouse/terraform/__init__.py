"""Gateway policies and lists as Terraform writes them: read from its files, and written to one.

    found = read(parse(content), existing={"wiki"})
    for note in found.notes:
        print(note.resource, note.attribute, note.message)

It calls nothing. What cannot be mapped is said, by resource and attribute. It needs the library of the extra `cli`.
"""

from guardhouse.terraform.parsing import parse
from guardhouse.terraform.reading import Import, read
from guardhouse.terraform.resources import MAX_SIZE, Note, Resource, TerraformInvalid
from guardhouse.terraform.writing import Export, write

__all__ = ["MAX_SIZE", "Export", "Import", "Note", "Resource", "TerraformInvalid", "parse", "read", "write"]
