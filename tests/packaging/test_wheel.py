"""What is published installs anywhere, brings everything, and needs no more than its extra brings."""

import json
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import grpc_tools
import pytest
from grpc_tools import protoc

from demo.plane import START_SECONDS, free_port_base
from guardhouse_services.config import SERVICES

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

# Which modules of ours an environment lacks something for.
IMPORT_ALL = """
import importlib, json, pkgutil
failed = {}
for package in ("guardhouse", "guardhouse_services"):
    for module in pkgutil.walk_packages([importlib.import_module(package).__path__[0]], f"{package}."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            failed[module.name] = error.name
print(json.dumps(failed))
"""


def run(*command: str | Path, **variables: str) -> str:
    """What a program prints, in an environment that says nothing of this one."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd="/", env={**clean, **variables}, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(tree: Path, target: Path) -> dict[str, Path]:
    """The wheel and the sdist of a tree, by suffix."""
    subprocess.run([BIN / "hatchling", "build", "-d", target], cwd=tree, check=True, capture_output=True, timeout=60)
    return {path.suffix: path for path in target.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def files(folder: str, pattern: str) -> set[str]:
    return {str(path.relative_to(ROOT / folder)) for path in (ROOT / folder).rglob(pattern)}


def test_the_wheel_has_everything_and_no_more(built: dict[str, Path]) -> None:
    """Each proto lies beside the code that is generated from it."""
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    code = {
        path for kind in ("*.py", "*.pyi", "py.typed") for tree in ("clients", "services") for path in files(tree, kind)
    }
    assert names == code | files("protos", "*.proto")
    assert {"guardhouse/py.typed", "guardhouse_services/py.typed", "guardhouse/ipam/v1/ipam.proto"} <= names
    assert {f"guardhouse_services/{service}/migrations/0001_{service}.py" for service in SERVICES} <= names


def test_a_build_is_reproducible(built: dict[str, Path], tmp_path: Path) -> None:
    """The sdist builds the same wheel and the same sdist, so it also has all that a build needs."""
    with tarfile.open(built[".gz"]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    again = build(next(tmp_path.iterdir()), tmp_path / "dist")
    for suffix in (".whl", ".gz"):
        assert again[suffix].name == built[suffix].name
        assert again[suffix].read_bytes() == built[suffix].read_bytes()


@pytest.fixture(scope="module")
def python(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The interpreter of a fresh environment in which the wheel is installed with an extra."""
    folder = tmp_path_factory.mktemp("environments")

    @cache
    def install(extra: str) -> Path:
        environment = folder / (extra or "nothing")
        run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, environment)
        interpreter = environment / "bin" / "python"
        wanted = f"guardhouse{extra and f'[{extra}]'} @ {built['.whl'].as_uri()}"
        locked = ("--constraint", ROOT / "requirements.lock")
        run(BIN / "uv", "pip", "install", "--quiet", "--python", interpreter, *locked, wanted)
        return interpreter

    return install


DECIDES = r"(expressions|policies|replica)(\..*)?|applications|checker|decisions|device_profiles"
OPERATES = r"(agent|cli|terraform)(\..*)?|audit|enrollment|gateway\.metrics|keys|openid"
SERVES = r"guardhouse_services\..*"


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("extra", "more"),
    [
        # What needs more than the extra, as its own documentation says.
        ("", rf"guardhouse\.({DECIDES}|{OPERATES})|{SERVES}"),
        ("checker", rf"guardhouse\.({OPERATES})|{SERVES}"),
        ("cli", rf"guardhouse\.({DECIDES})|{SERVES}"),
        ("server", r"guardhouse_services\.tracing"),
        ("server,otel", ""),
    ],
)
def test_nothing_imports_what_its_extra_does_not_bring(extra: str, more: str, python: Callable[[str], Path]) -> None:
    failed: dict[str, str] = json.loads(run(python(extra), "-c", IMPORT_ALL))
    assert {module: missing for module, missing in failed.items() if not re.fullmatch(more, module)} == {}


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "extra"), [("guardhouse", "cli"), ("guardhouse-server", "server")])
def test_a_command_says_what_it_lacks(name: str, extra: str, python: Callable[[str], Path]) -> None:
    command = python("").with_name(name)
    done = subprocess.run([command, "--help"], cwd="/", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(f"pip install 'guardhouse[{extra}]'\n")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_library_the_command_and_the_server_work_together(python: Callable[[str], Path], tmp_path: Path) -> None:
    """Each from an environment of its own."""
    base = free_port_base()
    profile = tmp_path / "var" / "client.toml"
    settings = {"GUARDHOUSE_VAR": str(profile.parent), "GUARDHOUSE_PORT_BASE": str(base)}
    command, library = python("cli").with_name("guardhouse"), python("")
    assert "organizations" in run(command, "--help")
    completed = {"COMP_WORDS": "guardhouse organi", "COMP_CWORD": "1", "_GUARDHOUSE_COMPLETE": "complete_bash"}
    assert run(command, **completed).split() == ["organizations"]
    with Server(python("server").with_name("guardhouse-server"), profile, settings):
        made = json.loads(run(command, "--profile", profile, "--json", "organizations", "create", "Example"))
        script = (
            "import guardhouse, sys\n"
            "from guardhouse.identity.v1 import identity_pb2 as pb\n"
            "with guardhouse.connect(sys.argv[1]) as client:\n"
            "    for it in client.organizations.ListOrganizations(pb.ListOrganizationsRequest()).organizations:\n"
            "        print(it.organization_id)\n"
        )
        assert run(library, "-c", script, profile).split() == [made["organization"]["organization_id"]]


class Server:
    """`guardhouse-server run`, until the block ends."""

    def __init__(self, program: Path, profile: Path, settings: dict[str, str]) -> None:
        self._program = program
        self._profile = profile
        self._settings = settings

    def __enter__(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "run"], cwd="/", env={"PATH": "/usr/bin:/bin", **self._settings}
        )
        end = time.monotonic() + START_SECONDS
        while not self._profile.exists():
            assert self._process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(60) == 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_stubs_of_another_language_can_be_generated_from_the_wheel(
    python: Callable[[str], Path], tmp_path: Path
) -> None:
    """The installed packages have every proto, with all that these import."""
    installed = Path(run(python(""), "-c", "import guardhouse; print(guardhouse.__path__[0])").strip()).parent
    protos = sorted(str(path.relative_to(installed)) for path in installed.glob("guardhouse/*/v1/*.proto"))
    assert len(protos) == len(files("protos", "*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = [f"-I{installed}", f"-I{well_known}", f"--descriptor_set_out={tmp_path / 'all'}", *protos]
    assert protoc.main(["protoc", *arguments]) == 0
