"""moto's server, which emulates EC2, as a process of its own: it dies with whoever started it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest

__all__ = ["MotoServer", "moto_server"]


class MotoServer:
    """``url`` is its endpoint, for all services and regions."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, action: str, region: str = "us-east-1", **parameters: str) -> str:
        """What the cloud itself says to an EC2 action: the answer's text."""
        scope = f"testing/20260101/{region}/ec2/aws4_request"
        reply = httpx2.post(
            self.url,
            data={"Action": action, "Version": "2016-11-15", **parameters},
            headers={"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"},
            timeout=60.0,
            trust_env=False,
        )
        reply.raise_for_status()
        return reply.text

    def instances(self) -> dict[str, str]:
        """State by id, of all instances that are not terminated."""
        found = re.findall(
            r"<instanceId>(i-\w+)</instanceId>.*?<instanceState>.*?<name>([\w-]+)</name>",
            self.ask("DescribeInstances"),
            re.DOTALL,
        )
        return {id_: state for id_, state in found if state != "terminated"}

    def beside(self) -> dict[str, set[str]]:
        """What there is beside instances: ids of volumes, the instances' own among them, and of addresses; names of
        security groups other than the networks' own, and of key pairs."""
        return {
            "volumes": set(re.findall("<volumeId>(.*?)</volumeId>", self.ask("DescribeVolumes"))),
            "addresses": set(re.findall("<allocationId>(.*?)</allocationId>", self.ask("DescribeAddresses"))),
            "groups": set(re.findall("<groupName>(.*?)</groupName>", self.ask("DescribeSecurityGroups"))) - {"default"},
            "key pairs": set(re.findall("<keyName>(.*?)</keyName>", self.ask("DescribeKeyPairs"))),
        }

    def warm_up(self) -> None:
        """Its first request loads much; no test shall wait for that."""
        image = re.findall("<imageId>(.*?)</imageId>", self.ask("DescribeImages"))
        self.ask("RunInstances", ImageId=(image or ["ami-12345678"])[0], MinCount="1", MaxCount="1")
        self.reset()

    def reset(self) -> None:
        """Forget all servers, volumes and the rest, of all accounts."""
        httpx2.post(f"{self.url}/moto-api/reset", timeout=60.0, trust_env=False).raise_for_status()


@contextlib.contextmanager
def moto_server() -> Iterator[MotoServer]:
    """A running server; skips the test where moto is not installed."""
    for package in ("moto", "flask", "flask_cors"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"moto is not installed: no package {package}")
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **os.environ,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
            "PYTHONWARNINGS": "ignore",
        },
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"moto ended with {process.wait()}")
        server = MotoServer(url)
        server.warm_up()
        yield server
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


def _serve() -> None:
    """In the process: serve until the other side closes our input."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    _serve()
