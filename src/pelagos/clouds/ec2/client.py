"""One thread's door to a service that speaks EC2: an action with its parameters, an answer as an XML element.

Requests go out over Libcloud's own EC2 connection, which signs them. What stands above that in Libcloud's driver is not
used: it returns an empty list, also from a create, when the answer's XML namespace is not exactly the one it expects,
sends user data in the URL, and makes volumes before it tags them. So the actions are said here as Amazon's reference
says them, and answers are read whatever their namespace is.

Version 2 signatures exist for GET alone; with version 4 parameters go in the body, where user data has room.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

from libcloud.common.exceptions import BaseHTTPError
from libcloud.common.types import InvalidCredsError, MalformedResponseError
from libcloud.compute.drivers.ec2 import EC2Connection, EC2NodeDriver, EC2Response

from pelagos.clouds.ec2.failures import Ec2Fault, fault_error
from pelagos.clouds.ec2.options import Ec2Account, region_of
from pelagos.clouds.errors import CloudUncertain, CloudUnreachable
from pelagos.clouds.libcloud.failures import http_failure, network_failure, scrubber
from pelagos.clouds.libcloud.wire import Expired, watch_connection
from pelagos.clouds.pages import without_page

__all__ = ["Ec2Client", "Params", "filters", "items", "text"]

Params = dict[str, str]
_MOST_PAGES = 1000


class _Response(EC2Response):
    def parse_body(self) -> Any:
        """The answer with names that have no namespace."""
        root = super().parse_body()  # type: ignore[no-untyped-call]
        if isinstance(root, str):
            raise MalformedResponseError("an empty answer", body=root, driver=None)
        return _plain(root)

    def parse_error(self) -> NoReturn:
        headers = dict(self.headers)
        try:
            found = next((one for one in self.parse_body().iter() if one.tag == "Error"), None)
        except MalformedResponseError:
            found = None
        if found is None:
            raise Ec2Fault("", self.body or "", int(self.status), headers)
        raise Ec2Fault(found.findtext("Code") or "", found.findtext("Message") or "", int(self.status), headers)


class _Connection(EC2Connection):
    responseCls = _Response


class _Driver(EC2NodeDriver):
    """Libcloud's, for any region and endpoint."""

    connectionCls = _Connection

    def __init__(self, account: Ec2Account, endpoint: str, region: str) -> None:
        url = urlsplit(endpoint)
        self.region_name = region
        self.signature_version = str(account.signature_version)
        self.token = account.session_token or None
        # The parent's own constructor knows only some of Amazon's regions.
        super(EC2NodeDriver, self).__init__(  # type: ignore[no-untyped-call]
            account.access_key,
            secret=account.secret_key,
            secure=url.scheme == "https",
            host=url.hostname,
            port=url.port or (443 if url.scheme == "https" else 80),
        )
        self.path = url.path or "/"
        watch_connection(self.connection)


class Ec2Client:
    """Belongs to one thread. Making it sends nothing."""

    def __init__(self, account: Ec2Account) -> None:
        self.region = region_of(account.endpoint, account.region)
        suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        self._driver = _Driver(account, account.endpoint or f"https://ec2.{self.region}.{suffix}", self.region)
        self._ca_file = account.ca_file
        self._in_url = str(account.signature_version) == "2"
        self._scrub = scrubber([account.secret_key, account.session_token, account.access_key])

    def call(self, action: str, params: Mapping[str, str] | None = None, *, effect: bool = False) -> Any:
        """The answer's root element. Raises an error of the family; ``effect``: whether the action may change something
        that a repeat would change again, so that a lost answer is CloudUncertain and not CloudUnreachable."""
        connection: Any = self._driver.connection
        fields = {"Action": action, **(params or {})}
        if connection.connection is None and self._ca_file:
            connection.connect()
            made: Any = connection.connection
            made.ca_cert = self._ca_file
        unknown = CloudUncertain if effect else CloudUnreachable
        try:
            if self._in_url:
                return connection.request(self._driver.path, params=fields).object
            return connection.request(
                self._driver.path,
                data=urlencode({**fields, "Version": connection.version}),
                headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
                method="POST",
            ).object
        except Ec2Fault as fault:
            raise fault_error(fault, action, self._scrub(without_page(fault.message)), effect=effect) from fault
        except Expired as error:
            raise CloudUnreachable(f"{action}: the deadline passed before it was sent") from error
        except (MalformedResponseError, InvalidCredsError) as error:
            raise unknown(f"{action}: the answer could not be understood") from error
        except BaseHTTPError as error:
            raise http_failure(
                int(error.code),
                self._scrub(without_page(str(error.message))),
                error.headers,
                effect=effect,
                what=action,
            ) from error
        except Exception as error:
            trouble = network_failure(error)
            if trouble is None:
                raise
            sent, words = trouble
            raise (unknown if sent else CloudUnreachable)(f"{action}: {words}") from error

    def pages(self, action: str, params: Mapping[str, str] | None = None) -> Iterator[Any]:
        """The answers of an action that lists, page by page."""
        more = dict(params or {})
        for _ in range(_MOST_PAGES):
            root = self.call(action, more)
            yield root
            token = root.findtext("nextToken") or ""
            if not token:
                return
            more["NextToken"] = token


def filters(conditions: Mapping[str, str | list[str]]) -> Params:
    """``Filter.n`` parameters: a value, or any of several, for each name."""
    params: Params = {}
    for number, (name, values) in enumerate(conditions.items(), 1):
        params[f"Filter.{number}.Name"] = name
        for place, value in enumerate([values] if isinstance(values, str) else values, 1):
            params[f"Filter.{number}.Value.{place}"] = value
    return params


def items(element: Any, path: str) -> list[Any]:
    """The ``item`` elements of a list; none if there is no such list."""
    return list(element.findall(f"{path}/item")) if path else list(element.findall("item"))


def text(element: Any, path: str) -> str:
    """The text at a path, stripped; empty if there is none."""
    return (element.findtext(path) or "").strip()


def _plain(root: Any) -> Any:
    """The element, with the namespaces taken off all its names."""
    for one in root.iter():
        if isinstance(one.tag, str):
            one.tag = one.tag.rpartition("}")[2]
    return root
