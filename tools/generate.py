"""Generate the Python code of every proto into clients/ and the table of docs/methods.md, or check that they are fresh.

A proto's package is its folder and its Python import path, so the output needs no rewriting.
"""

import argparse
import filecmp
import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
CLIENTS = ROOT / "clients"
METHODS = ROOT / "docs" / "methods.md"

# protoc's own types, and those of google.rpc, which a package of its own brings.
INCLUDES = [PROTOS, Path(grpc_tools.__file__).parent / "_proto", Path(status_pb2.__file__).parents[2]]

# The plugins of this environment, whether or not it is activated.
PLUGINS = [f"--plugin={Path(sys.executable).with_name(name)}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]


def generate(target: Path) -> None:
    """Write the code of all protos below target."""
    protos = sorted(PROTOS.rglob("*.proto"))
    # A proto without a service would get a module of stubs with nothing in it.
    services = [path for path in protos if re.search(r"^service ", path.read_text(), re.MULTILINE)]
    compile_protos(protos, f"--python_out={target}", f"--mypy_out=quiet:{target}")
    if services:
        compile_protos(services, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}")
    for folder in sorted({path.parent.relative_to(PROTOS) for path in protos}):
        for package in (folder, folder.parent):
            (target / package / "__init__.py").touch()


def compile_protos(protos: list[Path], *outputs: str) -> None:
    includes = [f"-I{path}" for path in INCLUDES]
    names = [path.relative_to(PROTOS).as_posix() for path in protos]
    if protoc.main(["protoc", *includes, *PLUGINS, *outputs, *names]) != 0:
        sys.exit("generate: protoc failed")


def generated(root: Path) -> set[Path]:
    """The generated files below root, relative to it."""
    return {path.relative_to(root) for path in root.glob("guardhouse/*/v1/*_pb2*.py*")}


def described(folder: Path) -> str:
    """What docs/methods.md says of the protos."""
    # It lies beside this script, and reads the access rules with the generated code, which is there by now.
    import methods  # type: ignore[import-not-found]  # noqa: PLC0415

    path = folder / "protos.binpb"
    compile_protos(
        sorted(PROTOS.rglob("*.proto")), f"--descriptor_set_out={path}", "--include_source_info", "--include_imports"
    )
    return str(methods.document(FileDescriptorSet.FromString(path.read_bytes())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    check = parser.parse_args().check

    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        wanted = {path.relative_to(fresh) for path in fresh.rglob("*.py*")}
        stale = sorted(
            path
            for path in wanted | generated(CLIENTS)
            if path not in wanted
            or not (CLIENTS / path).exists()
            or (path.name != "__init__.py" and not filecmp.cmp(fresh / path, CLIENTS / path, shallow=False))
        )
        if check and stale:
            sys.exit("\n".join(["generated code is stale, run `make gen`:", *(f"  clients/{path}" for path in stale)]))
        for path in stale:
            if path in wanted:
                (CLIENTS / path).parent.mkdir(parents=True, exist_ok=True)
                (CLIENTS / path).write_bytes((fresh / path).read_bytes())
            else:
                (CLIENTS / path).unlink()
            print(f"clients/{path}")
        table = described(fresh)
        if table != (METHODS.read_text() if METHODS.exists() else ""):
            if check:
                sys.exit("docs/methods.md is stale, run `make gen`")
            METHODS.write_text(table)
            print("docs/methods.md")


if __name__ == "__main__":
    main()
