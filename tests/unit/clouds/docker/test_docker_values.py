"""What containers are made from, where images come from, and what a listing and an error mean."""

from __future__ import annotations

import json
from typing import Any

import docker.errors
import pytest
import requests
import urllib3.exceptions

from pelagos.clouds import (
    CloudAuthFailed,
    CloudBusy,
    CloudCapacity,
    CloudRateLimited,
    CloudRejected,
    CloudUncertain,
    CloudUnreachable,
    ServerNotFound,
    ServerSpec,
)
from pelagos.clouds.docker import DockerAccount, DockerResource
from pelagos.clouds.docker.containers import describe, order_of
from pelagos.clouds.docker.errors import NotSent, translate
from pelagos.clouds.docker.images import image_source
from pelagos.clouds.keys import check_keys
from pelagos.model.states import ServerState

ACCOUNT = DockerAccount(scope="here", mounts=("/srv/shared",), tarballs=("/srv/images",), address="192.0.2.7")


def config(spec: ServerSpec) -> Any:
    return json.loads(json.dumps(order_of(spec, "t-1", ACCOUNT).config("1.41", "image:1")))


def spec(**options: Any) -> ServerSpec:
    return ServerSpec(name="web one", hostname="web", options={"image": "busybox", **options})


def test_a_container_carries_its_token_and_has_all_that_was_said() -> None:
    full = ServerSpec(
        name="pelagos-shop-web",
        hostname="web-1",
        group="infra-1",
        env={"GREETING": "hello = world"},
        command=("sh", "-c", "echo $GREETING"),
        metadata={"node": "web", "aliases": "web,Not an alias"},
        options={
            "image": "busybox",
            "ports": ["8080:80", "127.0.0.1:5300:53/udp", 443],
            "volumes": ["/anonymous", "named:/data", "/srv/shared/site:/site:ro"],
            "cpus": 0.5,
            "memory_mb": 64,
            "pids": 50,
            "ulimits": {"nofile": "512:1024", "nproc": 100},
            "user": "1000:1000",
            "entrypoint": ["/init"],
            "health": {"command": ["test", "-e", "/up"], "interval": 0.5, "retries": 2},
        },
    )
    said = config(full)
    assert said["Labels"] == {
        "pelagos.token": "t-1",
        "pelagos.scope": "here",
        "pelagos.group": "infra-1",
        "pelagos.node": "web",
        "pelagos.aliases": "web,Not an alias",
    }
    assert (said["Image"], said["Cmd"], said["Entrypoint"]) == ("image:1", ["sh", "-c", "echo $GREETING"], ["/init"])
    assert (said["Hostname"], said["User"], said["Env"]) == ("web-1", "1000:1000", ["GREETING=hello = world"])
    assert said["Volumes"] == {"/anonymous": {}}
    assert set(said["ExposedPorts"]) == {"80/tcp", "53/udp", "443/tcp"}
    assert said["Healthcheck"] == {
        "Test": ["CMD", "test", "-e", "/up"],
        "Interval": 500_000_000,
        "Timeout": 30_000_000_000,
        "Retries": 2,
        "StartPeriod": 0,
    }
    host = said["HostConfig"]
    assert host["NetworkMode"] == "pelagos-here-infra-1"
    assert said["NetworkingConfig"] == {"EndpointsConfig": {"pelagos-here-infra-1": {"Aliases": ["web-1", "web"]}}}
    assert host["Binds"] == ["named:/data", "/srv/shared/site:/site:ro"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 64 << 20, 50)
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]}
    assert limits == {"nofile": (512, 1024), "nproc": (100, 100)}
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5300"}],
        "443/tcp": [{"HostIp": "", "HostPort": ""}],
    }


@pytest.mark.parametrize(("network", "mode"), [("group", "default"), ("default", "default"), ("none", "none")])
def test_without_a_group_there_is_no_network_of_its_own(network: str, mode: str) -> None:
    said = config(spec(network=network))
    assert said["HostConfig"]["NetworkMode"] == mode
    assert not said.get("NetworkingConfig")
    assert "pelagos.group" not in said["Labels"]


def test_a_name_belongs_to_one_token_of_one_scope() -> None:
    names = {
        order_of(spec(), token, DockerAccount(scope=scope)).name for token in ("a", "b") for scope in ("", "x", "x-a")
    }
    assert len(names) == 6
    assert all(name.startswith("web-one-") for name in names)
    assert order_of(spec(), "a", ACCOUNT).name == order_of(spec(), "a", ACCOUNT).name


@pytest.mark.parametrize(
    "wrong",
    [
        spec(volumes=["/etc:/x"]),
        spec(volumes=["/srv/shared/../../etc:/x"]),
        spec(volumes=["/srv/sharedother:/x"]),
        spec(ports=["0:80"]),
        spec(ports=["80:70000"]),
        spec(nonsense=1),
        ServerSpec(name="x", user_data="#cloud-config\n", options={"image": "busybox"}),
    ],
)
def test_what_no_engine_takes_is_refused_before_it_is_asked(wrong: ServerSpec) -> None:
    with pytest.raises(CloudRejected):
        config(wrong)


@pytest.mark.parametrize(
    ("keys", "at"),
    [
        ({"image": "UPPER"}, "image"),
        ({"image": "a:1"}, "image"),
        ({"image": "a", "tag": "no tag"}, "tag"),
        ({"image": "a", "ports": ["80:90:100:110"]}, "ports"),
        ({"image": "a", "volumes": ["/data:ro"]}, "volumes"),
        ({"image": "a", "volumes": ["data"]}, "volumes"),
        ({"image": "a", "memory_mb": 1}, "memory_mb"),
        ({"image": "a", "network": "host"}, "network"),
        ({"image": "a", "health": "sometimes"}, "health"),
        ({"tag": "1"}, "image"),
        ({"image": "a", "origin": "dockrhub"}, "origin"),
        ({"image": "a", "origin": "docker hub"}, "origin"),
        ({"image": "a", "origin": "ftp://e.example/x.tar"}, "origin"),
        ({"image": "a", "origin": "https://"}, "origin"),
    ],
)
def test_wrong_keys_are_told_at_import(keys: dict[str, Any], at: str) -> None:
    assert [key for key, _ in check_keys(DockerResource, keys)[1]] == [at]


@pytest.mark.parametrize(
    "origin",
    [
        *("", "dockerhub", "local", "registry.example.com/group", "reg:5000/team/", "localhost/x", "10.0.0.1:5000/x"),
        *("[::1]:5000/x", "http://e.example/b.tar", "https://e.example/b.tar?x=1", "file:///srv/b.tar"),
    ],
)
def test_origins_of_images(origin: str) -> None:
    assert check_keys(DockerResource, {"image": "a", "origin": origin})[1] == []


def test_a_wrong_origin_is_told_in_words() -> None:
    ((_, told),) = check_keys(DockerResource, {"image": "a", "origin": "dockrhub"})[1]
    assert told.startswith("must be dockerhub, local, a registry's name") and told.endswith("not 'dockrhub'")


@pytest.mark.parametrize(
    ("keys", "reference", "registry", "tarball"),
    [
        ({"image": "nginx"}, "docker.io/library/nginx:latest", "docker.io", ""),
        ({"image": "grafana/grafana", "tag": "11"}, "docker.io/grafana/grafana:11", "docker.io", ""),
        ({"image": "mine", "origin": "local"}, "mine:latest", "", ""),
        ({"image": "reg.example:5000/mine", "origin": "local"}, "reg.example:5000/mine:latest", "", ""),
        (
            {"image": "web", "origin": "reg.example:5000/team/"},
            "reg.example:5000/team/web:latest",
            "reg.example:5000",
            "",
        ),
        ({"image": "bb", "origin": "https://e.example/b.tar"}, "localhost/bb:latest", "", "https://e.example/b.tar"),
        (
            {"image": "bb", "origin": "file:///srv/images/b%20b.tar"},
            "localhost/bb:latest",
            "",
            "file:///srv/images/b b.tar",
        ),
    ],
)
def test_where_images_come_from(keys: dict[str, Any], reference: str, registry: str, tarball: str) -> None:
    source = image_source(DockerResource(**keys), ACCOUNT)
    assert (source.reference, source.registry, source.tarball) == (reference, registry, tarball)


@pytest.mark.parametrize(
    "origin", ["file:///etc/shadow", "file:///srv/images/../../etc/x.tar", "ftp://e.example/x.tar"]
)
def test_where_images_do_not_come_from(origin: str) -> None:
    with pytest.raises(CloudRejected):
        image_source(DockerResource(image="a", origin=origin), ACCOUNT)


def entry(**fields: Any) -> dict[str, Any]:
    networks = {"one": {"IPAddress": "10.0.0.2"}, "two": {"IPAddress": ""}}
    labels = {"pelagos.token": "t-1", "pelagos.scope": "here"}
    plain = {
        "Id": "abc",
        "Names": ["/other/web", "/web"],
        "Labels": labels,
        "State": "running",
        "Status": "Up 1 second",
    }
    return {**plain, "Created": 1_700_000_000, "NetworkSettings": {"Networks": networks}, "Image": "nginx", **fields}


@pytest.mark.parametrize(
    ("fields", "health", "state"),
    [
        ({}, "", ServerState.ACTIVE),
        ({"Status": "Up 2 minutes (healthy)"}, "", ServerState.ACTIVE),
        ({"Status": "Up 2 seconds (health: starting)"}, "", ServerState.BUILD),
        ({"Status": "Up 2 minutes (unhealthy)"}, "", ServerState.ERROR),
        ({}, "starting", ServerState.BUILD),
        ({}, "unhealthy", ServerState.ERROR),
        ({"State": "created", "Status": "Created"}, "", ServerState.BUILD),
        ({"State": "exited", "Status": "Exited (137) 3 seconds ago"}, "unhealthy", ServerState.STOPPED),
        ({"State": "paused"}, "", ServerState.STOPPED),
        ({"State": "restarting"}, "", ServerState.REBOOT),
        ({"State": "removing"}, "", ServerState.DELETING),
        ({"State": "dead"}, "", ServerState.ERROR),
        ({"State": "new in 2030"}, "", ServerState.UNKNOWN),
    ],
)
def test_states(fields: dict[str, Any], health: Any, state: ServerState) -> None:
    server = describe(entry(**fields), ACCOUNT, health)
    assert server.state is state
    assert bool(server.reason) == (
        state not in (ServerState.ACTIVE, ServerState.BUILD) or bool(health) or "health:" in str(fields)
    )


def test_what_a_listing_says() -> None:
    server = describe(entry(), ACCOUNT)
    assert (server.provider_id, server.name, server.token) == ("abc", "web", "t-1")
    assert (server.addresses, server.private_addresses) == (("10.0.0.2",), ("10.0.0.2",))
    assert (server.created_at, server.image) == (1_700_000_000.0, "nginx")
    published = describe(entry(Ports=[{"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}]), ACCOUNT)
    assert published.addresses == ("192.0.2.7", "10.0.0.2")
    assert describe(entry(Labels={"pelagos.token": "t-1", "pelagos.scope": "there"}), ACCOUNT).token == ""
    assert describe(entry(Labels=None), ACCOUNT).token == ""


def answer(status: int, message: str = "", **headers: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return docker.errors.APIError("told", response=response, explanation=message)


def connection(inner: Exception) -> requests.ConnectionError:
    return requests.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.", inner))


REFUSED = requests.ConnectionError(
    urllib3.exceptions.MaxRetryError(None, "/", urllib3.exceptions.NewConnectionError(None, "refused"))  # type: ignore[arg-type]
)


@pytest.mark.parametrize(
    ("error", "reading", "writing"),
    [
        (answer(400, "bad parameter"), CloudRejected, CloudRejected),
        (answer(401), CloudAuthFailed, CloudAuthFailed),
        (answer(403), CloudAuthFailed, CloudAuthFailed),
        (answer(403, "operation not supported for pre-defined networks"), CloudRejected, CloudRejected),
        (answer(404, "No such container: x"), ServerNotFound, ServerNotFound),
        (answer(404, "page not found"), CloudRejected, CloudRejected),
        (answer(409, "conflict"), CloudBusy, CloudBusy),
        (answer(429, "slow down"), CloudRateLimited, CloudRateLimited),
        (answer(500, "Ports are not available: address already in use"), CloudUnreachable, CloudCapacity),
        (answer(500, "no command or entrypoint provided"), CloudUnreachable, CloudRejected),
        (answer(500, "container state improper"), CloudUnreachable, CloudBusy),
        (answer(500, "what nobody foresaw"), CloudUnreachable, CloudUncertain),
        (answer(502), CloudUnreachable, CloudUncertain),
        (answer(503), CloudUnreachable, CloudUnreachable),
        (NotSent(), CloudUnreachable, CloudUnreachable),
        (connection(FileNotFoundError(2, "no socket")), CloudUnreachable, CloudUnreachable),
        (connection(ConnectionRefusedError(111, "refused")), CloudUnreachable, CloudUnreachable),
        (connection(PermissionError(13, "not yours")), CloudAuthFailed, CloudAuthFailed),
        (REFUSED, CloudUnreachable, CloudUnreachable),
        (connection(ConnectionResetError(104, "reset")), CloudUnreachable, CloudUncertain),
        (connection(BrokenPipeError(32, "pipe")), CloudUnreachable, CloudUncertain),
        (requests.ReadTimeout("timed out"), CloudUnreachable, CloudUncertain),
        (requests.exceptions.ChunkedEncodingError("cut off"), CloudUnreachable, CloudUncertain),
        (ValueError("no JSON"), CloudUnreachable, CloudUncertain),
        (requests.exceptions.SSLError("certificate"), CloudAuthFailed, CloudAuthFailed),
    ],
)
def test_errors(error: Exception, reading: type[Exception], writing: type[Exception]) -> None:
    assert type(translate(error, "list", reads=True)) is reading
    assert type(translate(error, "create", reads=False, makes=True)) is writing


def test_a_removal_that_trips_over_a_missing_file_is_asked_for_again() -> None:
    error = answer(500, "unlinkat /run/x: no such file or directory")
    assert type(translate(error, "delete", reads=False)) is CloudUncertain
    assert type(translate(error, "create", reads=False, makes=True)) is CloudRejected


def test_how_long_to_wait_is_passed_on() -> None:
    assert translate(answer(429, Retry_After="7"), "list", reads=True).retry_after == 7.0
    assert translate(answer(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), "list", reads=True).retry_after == 1.0
