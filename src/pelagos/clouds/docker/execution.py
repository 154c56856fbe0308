"""Commands inside a container."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import requests

from pelagos.clouds.docker.engine import Client

__all__ = ["OUTPUT_LIMIT", "ended", "run_inside"]

OUTPUT_LIMIT = 1 << 18
"""Most bytes of a command's output that are kept."""
_HEADER = 8
"""Bytes before each piece of the stream: which stream it is of, three zeros, and the length as a big-endian number."""


def run_inside(client: Client, container: str, argv: Sequence[str]) -> tuple[str, bytes]:
    """Run a command until it closes its output; blocks. The execution's id, and stdout and stderr together.

    The SDK's own way reads from the bare socket: without a time-out, and without what came together with the head of
    the reply. Asked for plainly, the engine sends the same stream as the body of its reply."""
    execution = str(client.exec_create(container, list(argv))["Id"])
    reply = client.post(
        client.address_of(f"/exec/{execution}/start"), json={"Detach": False, "Tty": False}, stream=True
    )
    try:
        client.check(reply)
        output = bytearray()
        for piece in _pieces(reply):
            output += piece[: max(0, OUTPUT_LIMIT - len(output))]
            client.go_on()
        return execution, bytes(output)
    finally:
        reply.close()


def ended(client: Client, execution: str) -> int | None:
    """The exit code; None while it runs."""
    said = client.exec_inspect(execution)
    code = said.get("ExitCode")
    return None if said.get("Running") or code is None else int(code)


def _pieces(reply: requests.Response) -> Iterator[bytes]:
    """What is in the frames of the multiplexed stream."""
    waiting = bytearray()
    for received in reply.iter_content(chunk_size=None):
        waiting += received
        while len(waiting) >= _HEADER:
            end = _HEADER + int.from_bytes(waiting[4:_HEADER], "big")
            if len(waiting) < end:
                break
            yield bytes(waiting[_HEADER:end])
            del waiting[:end]
