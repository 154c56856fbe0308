"""Where the test bed's files, ports and names are."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

REGION = "RegionOne"
SERVICES = ("glance", "placement", "nova", "neutron", "cinder")
"""Users of keystone, and databases (nova has three)."""
DATABASES = ("keystone", "glance", "placement", "nova", "nova_api", "nova_cell0", "neutron", "cinder")


class Layout:
    """The state directory (``PELAGOS_OPENSTACK_STATE``), and ports from ``PELAGOS_OPENSTACK_PORT`` on, on 127.0.0.1."""

    def __init__(self) -> None:
        self.state = Path(os.environ.get("PELAGOS_OPENSTACK_STATE", "/var/tmp/pelagos-openstack")).absolute()
        base = int(os.environ.get("PELAGOS_OPENSTACK_PORT", "15000"))
        self.keystone = base
        self.memcached = base + 11
        self.epmd = base + 69
        self.rabbit_distribution = base + 72
        self.rabbit = base + 73
        self.nova = base + 74
        self.metadata = base + 75
        self.cinder = base + 76
        self.placement = base + 78
        self.glance = base + 92
        self.neutron = base + 96
        self.postgresql = base + 99
        self._password: str | None = None

    @property
    def password(self) -> str:
        """Of all users; made anew with each cloud, and read by root alone."""
        if self._password is None:
            file = self.state / "password"
            if not file.exists():
                file.touch(mode=0o600)
                file.write_text(secrets.token_hex(12))
            self._password = file.read_text()
        return self._password

    @property
    def identity(self) -> str:
        return f"http://127.0.0.1:{self.keystone}/v3"

    @property
    def clouds(self) -> Path:
        """What tests and people use: clouds ``pelagos`` (a user), ``pelagos-app`` (its application credential) and
        ``pelagos-admin``."""
        return self.state / "clouds.yaml"

    @property
    def ready(self) -> Path:
        """There while all of it runs."""
        return self.state / "ready"

    def endpoints(self) -> dict[str, tuple[str, str]]:
        """Service type -> its name and URL."""
        return {
            "image": ("glance", f"http://127.0.0.1:{self.glance}"),
            "placement": ("placement", f"http://127.0.0.1:{self.placement}"),
            "compute": ("nova", f"http://127.0.0.1:{self.nova}/v2.1"),
            "network": ("neutron", f"http://127.0.0.1:{self.neutron}"),
            "volumev3": ("cinder", f"http://127.0.0.1:{self.cinder}/v3/%(project_id)s"),
        }

    def database(self, name: str) -> str:
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.postgresql}/{name}"

    @property
    def broker(self) -> str:
        return f"rabbit://guest:guest@127.0.0.1:{self.rabbit}/"
