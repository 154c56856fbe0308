"""Contextualisation, as cloud-init's users know it."""

# ruff: noqa: ASYNC240
# (a test may block its own loop for a moment)

from __future__ import annotations

import base64
import gzip
import os

import pytest

from e2e.local.local_cloud import LocalCloud
from pelagos.clouds import CloudRejected

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def test_files_and_commands(isolated: LocalCloud) -> None:
    packed = base64.b64encode(gzip.compress(b"packed\n")).decode()
    document = f"""#cloud-config
hostname: given
bootcmd:
  - echo early > /etc/early
write_files:
  - path: /etc/app/config.ini
    permissions: '0640'
    content: |
      [app]
      name = one
  - path: /etc/app/config.ini
    append: true
    content: "more = yes\\n"
  - {{path: /usr/local/bin/app, permissions: 0755, content: "#!/bin/sh\\necho app runs\\n"}}
  - {{path: /opt/deep/er/packed, encoding: gz+b64, content: {packed}}}
  - {{path: /etc/passwd-like, encoding: b64, content: aGVsbG8=}}
  - path: /etc/motd
    content: replaced
runcmd:
  - app
  - [sh, -c, 'exit 3']
  - "cat /etc/early && cd /opt && export KEPT=yes"
  - 'echo "in $PWD, kept $KEPT"'
  - 'this is ( a syntax error'
  - echo last one
final_message: all is well
"""
    server = await isolated.make(user_data=document)
    said = await isolated.console_says(server, "user data finished")
    assert "app runs" in said
    assert "runcmd 2 exited with code 3" in said
    assert "in /opt, kept yes" in said
    assert "last one" in said
    assert "all is well" in said
    assert "user data finished: 2 step(s) failed" in said
    assert await isolated.sh(server, "cat /etc/app/config.ini") == "[app]\nname = one\nmore = yes\n"
    assert (await isolated.sh(server, "stat -c %a /etc/app/config.ini /usr/local/bin/app")).split() == ["640", "755"]
    assert await isolated.sh(server, "cat /opt/deep/er/packed /etc/passwd-like /etc/motd") == "packed\nhelloreplaced"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="an instance of an unprivileged user has one user, its own root")
async def test_users_and_owners(isolated: LocalCloud) -> None:
    if await isolated.level() != "namespaces-root":
        pytest.skip("this root may not make namespaces without a user namespace")
    document = """#cloud-config
users:
  - default
  - name: app
    shell: /bin/sh
    ssh_authorized_keys: [ssh-ed25519 AAAA key]
    sudo: ALL=(ALL) NOPASSWD:ALL
write_files:
  - {path: /srv/app/data, owner: 'app:app', content: x}
runcmd:
  - su app -c 'id -un; cat /srv/app/data'
"""
    server = await isolated.make(user_data=document)
    said = await isolated.console_says(server, "user data finished")
    assert said.rstrip().endswith("user data finished"), said
    assert "\napp\nx" in said
    assert await isolated.sh(server, "stat -c %U:%G /srv/app/data") == "app:app\n"
    assert "AAAA key" in await isolated.sh(server, "cat /home/app/.ssh/authorized_keys")
    assert await isolated.sh(server, "stat -c %a /etc/sudoers.d/90-app") == "440\n"


async def test_what_is_not_there_is_warned_of(cloud: LocalCloud) -> None:
    document = """#cloud-config
swap: {filename: /swap}
packages: [sh, no-such-package-anywhere]
runcmd:
  - systemctl start nothing
"""
    server = await cloud.make(user_data=document)
    said = await cloud.console_says(server, "user data finished")
    assert "line 2: cloud-config key 'swap' is not known here: ignored" in said
    assert "warning: the package no-such-package-anywhere is not installed on this machine" in said
    assert "the package sh is" not in said
    assert "line 5: runcmd 1 asks systemd" in said


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("#cloud-config\nruncmd: [\n", "line 3: not YAML"),
        ("#cloud-config\nwrite_files:\n  - path: relative\n", "line 3: path of a file must be absolute"),
        ("#cloud-config\nwrite_files:\n  - path: /x\n    permissions: rwx\n", "line 4: permissions 'rwx'"),
        (
            "#cloud-config\nwrite_files:\n  - path: /x\n    encoding: b64\n    content: '*'\n",
            "line 5: content is not b64",
        ),
        ("#cloud-config\nruncmd:\n  - {a: b}\n", "line 3: entry 1 of runcmd"),
        ("#cloud-config\n- a\n", "must be a mapping"),
        ("Content-Type: multipart/mixed\n", "neither '#cloud-config' nor a '#!' script"),
    ],
)
async def test_a_wrong_document_is_refused_by_its_line(cloud: LocalCloud, document: str, text: str) -> None:
    with pytest.raises(CloudRejected) as caught:
        await cloud.make(user_data=document)
    assert text in caught.value.message
    assert list(await cloud.driver.list_servers(timeout=5)) == []


async def test_a_script_gets_the_instance_in_its_environment(cloud: LocalCloud) -> None:
    script = '#!/bin/sh\necho "$HOSTNAME $PELAGOS_ADDRESS $COLOUR"\n'
    server = await cloud.make("alpha", script, env={"COLOUR": "blue"})
    await cloud.console_says(server, f"\nalpha {server.addresses[0]} blue\n")
    assert (await cloud.sh(server, "echo $COLOUR")).strip() == "blue"


async def test_plain_processes_find_their_files_under_their_own_directory(cloud: LocalCloud) -> None:
    document = """#cloud-config
write_files:
  - {path: /opt/pelagos-test/app.sh, permissions: '0755', content: "#!/bin/sh\\necho found me\\n"}
runcmd:
  - /opt/pelagos-test/app.sh
"""
    server = await cloud.make(user_data=document)
    said = await cloud.console_says(server, "user data finished")
    assert "\nfound me\n" in said
    assert not os.path.exists("/opt/pelagos-test")
