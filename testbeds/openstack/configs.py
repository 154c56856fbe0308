"""The configuration files of the services: only what differs from the defaults, and why.

Each is a mapping of sections. Paths are written out in full: oslo.config gives ``$`` a meaning of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from layout import REGION, Layout

Config = dict[str, dict[str, object]]

BINDING = '''\
from neutron_lib import constants
from neutron_lib.plugins.ml2 import api


class AnyBind(api.MechanismDriver):
    """Binds every port on its first segment, so that no agent is needed."""

    def initialize(self):
        pass

    def bind_port(self, context):
        for segment in context.segments_to_bind:
            context.set_binding(segment[api.ID], "other", {}, status=constants.PORT_STATUS_ACTIVE)
            return

    def check_vlan_transparency(self, context):
        return False
'''


CLONING = '''\
from cinder.tests.fake_driver import FakeLoggingVolumeDriver


class CloningDriver(FakeLoggingVolumeDriver):
    """Says that it made each volume of an image by itself; else cinder would copy bytes to where no volume is."""

    def clone_image(self, context, volume, image_location, image_meta, image_service):
        return {}, True
'''


def write(path: Path, config: Mapping[str, Mapping[str, object]]) -> None:
    """Write a configuration file that root alone may read: it has passwords."""
    lines = []
    for section, keys in config.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {value}" for key, value in keys.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text("\n".join([*lines, ""]))


def keystone(at: Layout) -> Config:
    home = at.state / "keystone"
    return {
        "DEFAULT": {**_logs(home), "public_endpoint": f"http://127.0.0.1:{at.keystone}"},
        "database": {"connection": at.database("keystone")},
        "token": {"provider": "fernet"},
        "fernet_tokens": {"key_repository": home / "fernet"},
        "credential": {"key_repository": home / "credential"},
        "identity": {"password_hash_rounds": 4},
        # Without a cache an authenticated call takes a second.
        "cache": {
            "enabled": "true",
            "backend": "dogpile.cache.pymemcache",
            "backend_argument": f"url:127.0.0.1:{at.memcached}",
        },
        "oslo_policy": {"enforce_scope": "false"},
    }


def glance(at: Layout) -> Config:
    home = at.state / "glance"
    return {
        "DEFAULT": {
            **_logs(home),
            "bind_host": "127.0.0.1",
            "bind_port": at.glance,
            "workers": 0,
            "enabled_backends": "file:file",
            "node_staging_uri": f"file://{home}/staging",
        },
        "database": {"connection": at.database("glance")},
        "glance_store": {"default_backend": "file"},
        "file": {"filesystem_store_datadir": home / "images"},
        "paste_deploy": {"flavor": "keystone", "config_file": "/etc/glance/glance-api-paste.ini"},
        "os_glance_tasks_store": {"filesystem_store_datadir": home / "tasks"},
        "os_glance_staging_store": {"filesystem_store_datadir": home / "staging"},
        **_common(at, "glance"),
    }


def placement(at: Layout) -> Config:
    return {
        "DEFAULT": _logs(at.state / "placement"),
        "api": {"auth_strategy": "keystone"},
        "placement_database": {"connection": at.database("placement"), "sync_on_startup": "true"},
        **_common(at, "placement"),
    }


def nova(at: Layout) -> Config:
    home = at.state / "nova"
    return {
        "DEFAULT": {
            **_logs(home),
            "state_path": home / "state",
            "instances_path": home / "instances",
            "my_ip": "127.0.0.1",
            "host": "testbed",
            "transport_url": at.broker,
            "osapi_compute_listen": "127.0.0.1",
            "osapi_compute_listen_port": at.nova,
            "osapi_compute_workers": 1,
            "enabled_apis": "osapi_compute",
            "compute_driver": "fake.FakeDriver",
            "use_cow_images": "false",
            # No agent says when a port is plugged.
            "vif_plugging_timeout": 0,
            "vif_plugging_is_fatal": "false",
        },
        "api": {"auth_strategy": "keystone"},
        "api_database": {"connection": at.database("nova_api")},
        "database": {"connection": at.database("nova")},
        "conductor": {"workers": 1},
        "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 10},
        "vnc": {"enabled": "false"},
        "spice": {"enabled": "false"},
        "service_user": {"send_service_user_token": "true", **_user(at, "nova")},
        "placement": {**_user(at, "nova"), "region_name": REGION},
        "glance": {"api_servers": f"http://127.0.0.1:{at.glance}"},
        "neutron": {**_user(at, "neutron"), "region_name": REGION},
        "cinder": {"catalog_info": "volumev3:cinder:publicURL"},
        "cache": {
            "enabled": "true",
            "backend": "dogpile.cache.pymemcache",
            "memcache_servers": f"127.0.0.1:{at.memcached}",
        },
        **_common(at, "nova"),
        "oslo_policy": {"enforce_scope": "false", "enforce_new_defaults": "false"},
    }


def neutron(at: Layout) -> Config:
    home = at.state / "neutron"
    return {
        "DEFAULT": {
            **_logs(home),
            "state_path": home / "state",
            "bind_host": "127.0.0.1",
            "bind_port": at.neutron,
            "api_workers": 1,
            "rpc_workers": 1,
            "rpc_state_report_workers": 0,
            "core_plugin": "ml2",
            "service_plugins": "router",
            "auth_strategy": "keystone",
            "transport_url": at.broker,
            "api_paste_config": "/etc/neutron/api-paste.ini",
            # So nova shows a floating address as soon as it is associated.
            "notify_nova_on_port_status_changes": "false",
            "notify_nova_on_port_data_changes": "true",
        },
        "nova": {**_user(at, "nova"), "region_name": REGION},
        "database": {"connection": at.database("neutron")},
        **_common(at, "neutron"),
    }


def ml2() -> Config:
    return {
        "ml2": {
            "type_drivers": "local,flat,vxlan",
            "tenant_network_types": "vxlan",
            "mechanism_drivers": "anybind",
            "extension_drivers": "port_security",
        },
        "ml2_type_vxlan": {"vni_ranges": "1:2000"},
        "ml2_type_flat": {"flat_networks": "*"},
        "securitygroup": {"enable_security_group": "true"},
    }


def cinder(at: Layout) -> Config:
    home = at.state / "cinder"
    return {
        "DEFAULT": {
            **_logs(home),
            "state_path": home / "state",
            "my_ip": "127.0.0.1",
            "host": "testbed",
            "osapi_volume_listen": "127.0.0.1",
            "osapi_volume_listen_port": at.cinder,
            "osapi_volume_workers": 1,
            "auth_strategy": "keystone",
            "api_paste_config": "/etc/cinder/api-paste.ini",
            "transport_url": at.broker,
            "glance_api_servers": f"http://127.0.0.1:{at.glance}",
            "enabled_backends": "fake",
            "default_volume_type": "__DEFAULT__",
        },
        "fake": {"volume_backend_name": "fake", "volume_driver": "tbvolumes.CloningDriver"},
        "database": {"connection": at.database("cinder")},
        **_common(at, "cinder"),
    }


def _logs(home: Path) -> dict[str, object]:
    return {"log_dir": home / "log", "use_stderr": "false"}


def _common(at: Layout, service: str) -> Config:
    """What all but keystone have."""
    return {
        "keystone_authtoken": {
            "www_authenticate_uri": f"http://127.0.0.1:{at.keystone}",
            "memcached_servers": f"127.0.0.1:{at.memcached}",
            **_user(at, service),
        },
        "oslo_concurrency": {"lock_path": at.state / service / "lock"},
        "oslo_messaging_notifications": {"driver": "noop"},
        "oslo_policy": {"enforce_scope": "false"},
    }


def _user(at: Layout, name: str) -> dict[str, object]:
    return {
        "auth_url": at.identity,
        "auth_type": "password",
        "project_domain_id": "default",
        "user_domain_id": "default",
        "project_name": "service",
        "username": name,
        "password": at.password,
    }
