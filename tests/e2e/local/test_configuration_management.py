"""Configuration managers inside instances of this machine: stand-ins on their PATH tell what they were called with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from e2e.local.product import Product, product

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="an unprivileged user's instance may not write everywhere"),
]

DESCRIPTION = """\
infra_name: managed
user_id: test
variables: {database: wp}
nodes:
  - &DB {name: db, type: db_node}
  - &WEB {name: web, type: web_node}
dependencies:
  - connection: [*WEB, *DB]
    mappings:
      - [hostname, app.db.host]
      - [mysql.port, app.db.port]
      - {attributes: [secret.password, app.db.password], synch: true}
"""
NODES = r"""
'node_def:db_node':
  - resource: {type: local}
    contextualisation:
      type: cloudinit
      attributes: {mysql: {port: 3306}}
      context_template:
        write_files:
          - path: /usr/local/bin/chef-client
            permissions: '0755'
            content: |
              #!/bin/sh
              echo "chef-client $*"
              cat /var/lib/pelagos/chef/dna.json
              # It takes a while until it knows its password.
              (sleep 0.5; printf '{"secret": {"password": "s3cret"}}' > /var/lib/pelagos/a.new
               mv /var/lib/pelagos/a.new /var/lib/pelagos/attributes.json) &
    config_management:
      type: chef
      endpoint: file:///srv/cookbooks
      run_list: ['recipe[mysql]']
    health_check: {ping: false}
'node_def:web_node':
  - resource: {type: local}
    contextualisation:
      type: cloudinit
      context_template: |
        #cloud-config
        write_files:
          - path: /usr/local/bin/puppet
            permissions: '0755'
            content: |
              #!/bin/sh
              echo "puppet $*"
              for last; do :; done
              test "$1" = apply && cat /etc/facter/facts.d/pelagos.json "$last"
              exit 0
        runcmd:
          - echo "the template sees {{ attributes.app.db.password }} of {{ attributes.app.db.host }}"
    config_management:
      type: puppet_solo
      manifests: ["notify { '{{ variables.database }}': }"]
      modules: [puppetlabs-mysql]
    health_check: {ping: false}
"""


@pytest.fixture
def bare() -> Iterator[Product]:
    with product() as made:
        yield made


def test_managers_get_run_lists_manifests_and_the_attributes_of_others(bare: Product) -> None:
    description, nodes = bare.files / "managed.yaml", bare.files / "managed-nodes.yaml"
    description.write_text(DESCRIPTION)
    nodes.write_text(NODES)
    bare("up", str(description), str(nodes), "--yes", timeout=120)
    try:
        events = [json.loads(line) for line in bare("events", "managed", "-o", "json").stdout.splitlines()]
        kinds = [(event["kind"], event.get("node")) for event in events]
        assert kinds.index(("instance.ready", "db")) < kinds.index(("instance.pending", "web"))

        said = {node: _until_finished(bare, node) for node in ("db", "web")}
        assert "chef-client --config /var/lib/pelagos/chef/client.rb" in said["db"]
        assert '"recipe[mysql]"' in said["db"]
        assert '"port": 3306' in said["db"]
        assert "the template sees s3cret of db" in said["web"]
        assert "puppet module install --target-dir /var/lib/pelagos/puppet/modules puppetlabs-mysql" in said["web"]
        assert "puppet apply --modulepath /var/lib/pelagos/puppet/modules:" in said["web"]
        assert "notify { 'wp': }" in said["web"]
        facts = json.loads(said["web"][said["web"].index("{\n") : said["web"].index("notify {")])
        assert facts == {"app": {"db": {"host": "db", "port": 3306, "password": "s3cret"}}}
    finally:
        bare("down", "managed", "--yes", timeout=120)


def _until_finished(bare: Product, node: str) -> str:
    """What the console of the node's instance says once its user data has been carried out."""
    for _ in range(200):
        (console,) = json.loads(bare("logs", "managed", node, "-o", "json").stdout)
        said: str = console["text"]
        if "user data finished" in said:
            return said
    raise AssertionError(f"the user data of {node} does not finish: {said}")
