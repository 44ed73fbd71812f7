"""Whether the services answer."""

import json

from grpc_health.v1 import health_pb2

from guardhouse.profile import DEFAULT_PATH, Profile
from tests.guardhouse.cli.commands import Run
from tests.guardhouse.scripted import ScriptedServer


def test_status_asks_all_four(run: Run, installation: ScriptedServer, profile: Profile) -> None:
    installation.answers["Check"] = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
    lines = run("status").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["identity", "registry", "ipam", "session"]
    assert all(line.split()[1:3] == [profile.identity, "serving"] for line in lines[1:])
    services = json.loads(run("status --json").stdout)["services"]
    assert all(service["latency_ms"] > 0 for service in services)


def test_status_says_who_does_not_answer(run: Run, installation: ScriptedServer, profile: Profile) -> None:
    installation.answers["Check"] = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
    Profile(identity=profile.identity, registry="127.0.0.1:1", ca=profile.ca).write(DEFAULT_PATH)
    result = run("status", exit_code=1)
    states = {line.split()[0]: line.split()[2] for line in result.stdout.splitlines()[1:]}
    assert states == {
        "identity": "not-serving",
        "registry": "unreachable",
        "ipam": "unreachable",
        "session": "unreachable",
    }
    assert "registry at 127.0.0.1:1 cannot be reached" in result.stderr
    assert "the address of ipam is not known" in result.stderr
    assert result.stderr.count("make run") == 3  # Twice where no address is known, once for all.
