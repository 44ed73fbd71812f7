"""From the bytes of a file to its resources, whichever of Terraform's forms it has."""

from collections.abc import Sequence

from guardhouse.terraform import hcl, shown
from guardhouse.terraform.resources import MAX_SIZE, Resource, TerraformInvalid


def parse(content: bytes) -> Sequence[Resource]:
    """Read HCL, as in a .tf file, or the JSON of `terraform show -json`, which is told by its first brace.

    Raises TerraformInvalid for what is neither, for more than MAX_SIZE bytes, and for nesting without end.
    """
    if len(content) > MAX_SIZE:
        raise TerraformInvalid(f"it has more than {MAX_SIZE} bytes: give the files with policies and lists only")
    if content.startswith(b"PK\x03\x04"):
        raise TerraformInvalid("a saved plan is read by Terraform only: give what `terraform show -json PLAN` prints")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TerraformInvalid(f"byte {error.start + 1} is not UTF-8") from None
    try:
        return shown.resources(text) if text.lstrip().startswith("{") else hcl.resources(text)
    except RecursionError:
        raise TerraformInvalid("it is nested too deeply") from None
