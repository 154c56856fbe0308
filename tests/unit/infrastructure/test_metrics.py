"""Numbers out of JSON documents, Prometheus pages and answers, and commands; and what is no number."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from pelagos.clouds.values import CommandResult
from pelagos.model.errors import Unsupported
from pelagos.services.infrastructure.metrics import (
    MetricUnavailable,
    NetworkMetrics,
    json_number,
    prometheus_number,
)
from pelagos.services.infrastructure.policies import MetricSource

PAGE = r"""
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3
http_requests_total{method="get",code="200",path="C:\\DIR\"x\"\n"} 1.5e1
up 1
weird_value NaN
"""


@pytest.mark.parametrize(
    ("body", "path", "number"),
    [
        (b"7", "", 7.0),
        (b'{"queue": {"length": 12}}', "queue.length", 12.0),
        (b'{"items": [{"load": "0.5"}]}', "items[0].load", 0.5),
        (b"[[1, 2]]", "[0][1]", 2.0),
    ],
)
def test_json(body, path, number):
    assert json_number(body, path) == number


@pytest.mark.parametrize(
    ("body", "path", "told"),
    [
        (b"<html>", "", "no JSON"),
        (b'{"a": 1}', "b", "nothing at 'b'"),
        (b'{"a": true}', "a", "no number"),
        (b'{"a": {}}', "a", "no number"),
        (b'{"a": "many"}', "a", "'many' is no number"),
        (b"[1]", "[3]", "nothing at"),
    ],
)
def test_json_without_a_number(body, path, told):
    with pytest.raises(MetricUnavailable, match=told):
        json_number(body, path)


def test_prometheus_pages():
    assert prometheus_number(PAGE, "up", {}) == 1.0
    assert prometheus_number(PAGE, "http_requests_total", {}) == 1045.0
    assert prometheus_number(PAGE, "http_requests_total", {"code": "200", "method": "post"}) == 1027.0
    assert prometheus_number(PAGE, "http_requests_total", {"path": 'C:\\DIR"x"\n'}) == 15.0
    for name, labels in (("http_requests", {}), ("up", {"job": "x"}), ("weird_value", {})):
        with pytest.raises(MetricUnavailable):
            prometheus_number(PAGE, name, labels)


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        answers = {
            "/q": b'{"queue": 4}',
            "/metrics": PAGE.encode(),
            "/p/api/v1/query?query=sum%28up%29": b'{"data": {"resultType": "vector", "result": [{"value": [1, "3"]}]}}',
            "/s/api/v1/query?query=sum%28up%29": b'{"data": {"resultType": "scalar", "result": [1, "5"]}}',
            "/e/api/v1/query?query=sum%28up%29": b'{"data": {"resultType": "vector", "result": []}}',
        }
        found = answers.get(self.path)
        self.send_response(404 if found is None else 200)
        self.end_headers()
        self.wfile.write(found or b"")

    def log_message(self, *_):
        """Nothing on stderr."""


@pytest.fixture
def pages():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.anyio
async def test_over_http(pages):
    metrics = NetworkMetrics(_no_command)
    try:
        for source, number in (
            (MetricSource(type="http", url=f"{pages}/q", path="queue"), 4.0),
            (MetricSource(type="prometheus", url=f"{pages}/metrics", name="up"), 1.0),
            (MetricSource(type="prometheus", url=f"{pages}/p/", query="sum(up)"), 3.0),
            (MetricSource(type="prometheus", url=f"{pages}/s", query="sum(up)"), 5.0),
        ):
            assert await metrics.read(source, "") == number
        for source, told in (
            (MetricSource(type="http", url=f"{pages}/nothing"), "HTTP 404"),
            (MetricSource(type="prometheus", url=f"{pages}/e", query="sum(up)"), "no result"),
            (MetricSource(type="http", url="no url at all"), "."),
            (MetricSource(type="http", url="http://127.0.0.1:1/"), "."),
        ):
            with pytest.raises(MetricUnavailable, match=told):
                await metrics.read(source, "")
    finally:
        await metrics.close()


async def _no_command(server_id, argv, timeout):
    raise Unsupported("no commands here")


@pytest.mark.anyio
async def test_by_command():
    said = {"wc": CommandResult(0, "chatter\n 12 \n"), "cat": CommandResult(0, "cpu  10 0 20 60 10 0 0 0 0\ncpu0 1\n")}

    async def execute(server_id, argv, timeout):
        assert server_id == "server-1"
        return said.get(argv[0], CommandResult(3, ""))

    metrics = NetworkMetrics(execute)
    assert await metrics.read(MetricSource(type="command", command=("wc", "-l")), "server-1") == 12.0
    assert await metrics.read_pair(MetricSource(type="cpu"), "server-1") == (30.0, 100.0)
    for source, told in (
        (MetricSource(type="command", command=("false",)), "exit code 3"),
        (MetricSource(type="cpu"), "no single number"),
    ):
        with pytest.raises(MetricUnavailable, match=told):
            await metrics.read(source, "server-1")
    with pytest.raises(MetricUnavailable, match="no commands here"):
        await NetworkMetrics(_no_command).read(MetricSource(type="command", command=("x",)), "server-1")
