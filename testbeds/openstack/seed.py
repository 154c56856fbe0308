"""What is in the cloud before the tests: users, the catalogue, an image, a flavor, networks; all by openstacksdk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import openstack
from layout import REGION, SERVICES, Layout
from openstack.connection import Connection


def connect(at: Layout, name: str, project: str) -> Connection:
    return openstack.connect(
        auth_url=at.identity,
        username=name,
        password=at.password,
        project_name=project,
        user_domain_name="Default",
        project_domain_name="Default",
        region_name=REGION,
    )


def identities(at: Layout) -> None:
    """Users of the services, the project and user ``demo``, and the catalogue."""
    identity = connect(at, "admin", "admin").identity
    service = identity.create_project(name="service", domain_id="default")
    demo = identity.create_project(name="demo", domain_id="default")
    roles = {role.name: role for role in identity.roles()}
    for name in ("member", "service"):
        roles[name] = roles.get(name) or identity.create_role(name=name)
    for name in SERVICES:
        user = identity.create_user(name=name, password=at.password, domain_id="default")
        for role in ("admin", "service"):
            identity.assign_project_role_to_user(service, user, roles[role])
    user = identity.create_user(name="demo", password=at.password, domain_id="default", default_project_id=demo.id)
    identity.assign_project_role_to_user(demo, user, roles["member"])
    for kind, (name, url) in at.endpoints().items():
        entry = identity.create_service(name=name, type=kind)
        for interface in ("public", "internal", "admin"):
            identity.create_endpoint(service_id=entry.id, interface=interface, region_id=REGION, url=url)


def contents(at: Layout) -> None:
    """The image ``tiny``, the flavor ``m1.tiny``, ``private`` and ``public`` networks with a router, and room."""
    admin = connect(at, "admin", "admin")
    demo = connect(at, "demo", "demo")
    blob = at.state / "image"
    blob.write_bytes(os.urandom(2_000_000))
    admin.create_image(
        "tiny", filename=str(blob), disk_format="raw", container_format="bare", visibility="public", wait=True
    )
    admin.compute.create_flavor(name="m1.tiny", ram=64, vcpus=1, disk=1)
    project = demo.current_project_id
    admin.compute.update_quota_set(project, instances=60, cores=60, ram=60_000)
    public = admin.network.create_network(name="public", is_router_external=True)
    admin.network.create_subnet(network_id=public.id, cidr="203.0.113.0/24", ip_version=4, is_dhcp_enabled=False)
    private = demo.network.create_network(name="private")
    subnet = demo.network.create_subnet(network_id=private.id, cidr="10.7.0.0/16", ip_version=4)
    router = demo.network.create_router(name="router", external_gateway_info={"network_id": public.id})
    demo.network.add_interface_to_router(router, subnet_id=subnet.id)
    group = demo.network.create_security_group(name="web", description="port 80 from everywhere")
    demo.network.create_security_group_rule(
        security_group_id=group.id, direction="ingress", protocol="tcp", port_range_min=80, port_range_max=80
    )
    _wait("nova's compute host", lambda: any(h.state == "up" for h in admin.compute.hypervisors(details=True)))
    _wait("cinder's volume host", lambda: any(s.binary == "cinder-volume" for s in admin.block_storage.services()))


def clouds(at: Layout) -> None:
    """Write ``clouds.yaml`` (JSON is YAML), for its owner's eyes only."""
    demo = connect(at, "demo", "demo")
    credential = demo.identity.create_application_credential(demo.current_user_id, "pelagos")
    domains = {"user_domain_name": "Default", "project_domain_name": "Default"}

    def user(name: str, project: str) -> dict[str, object]:
        login = {"auth_url": at.identity, "username": name, "password": at.password, "project_name": project}
        return {"auth": {**login, **domains}, "region_name": REGION}

    found = {
        "pelagos": user("demo", "demo"),
        "pelagos-admin": user("admin", "admin"),
        "pelagos-app": {
            "auth_type": "v3applicationcredential",
            "auth": {
                "auth_url": at.identity,
                "application_credential_id": credential.id,
                "application_credential_secret": credential.secret,
            },
            "region_name": REGION,
        },
    }
    at.clouds.touch(mode=0o600)
    at.clouds.write_text(json.dumps({"clouds": found}, indent=2) + "\n")


def _wait(what: str, condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what} is not there after {seconds:.0f} s; see the logs in the state directory")
        time.sleep(0.5)
