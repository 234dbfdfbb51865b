"""Run by the system's Python with cloud-init's own modules: crawl a metadata service as a booting machine does.

usage: crawl.py ec2|aws|openstack DIRECTORY MAC; prints what was found, and every warning, as JSON.
"""

import json
import logging
import sys

from cloudinit import helpers, util
from cloudinit.sources import DataSourceEc2
from cloudinit.sources.DataSourceOpenStack import read_metadata_service
from cloudinit.sources.helpers import openstack

warnings: list[str] = []


class Collect(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warnings.append(record.getMessage())


def plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def ec2(cloud: str, directory: str, mac: str) -> dict:
    names = {"cloud_dir": directory, "run_dir": directory, "templates_dir": directory}
    source = DataSourceEc2.DataSourceEc2({}, None, helpers.Paths(names))
    source._cloud_name = {"aws": DataSourceEc2.CloudNames.AWS, "ec2": DataSourceEc2.CloudNames.UNKNOWN}[cloud]
    found = source.crawl_metadata()
    network = DataSourceEc2.convert_ec2_metadata_network_config(found["meta-data"]["network"], {mac: "eth0"})
    return {**found, "network": network, "keys": DataSourceEc2.ec2 and found["meta-data"].get("public-keys")}


def nova(directory: str, mac: str) -> dict:
    found = read_metadata_service("http://169.254.169.254")
    return {**found, "network": openstack.convert_net_json(found["networkdata"], {mac: "eth0"})}


util.is_resolvable_url = lambda url: True  # it would wait for name servers that are not there
logging.getLogger().addHandler(handler := Collect(logging.WARNING))
kind, directory, mac = sys.argv[1:]
answer = nova(directory, mac) if kind == "openstack" else ec2(kind, directory, mac)
print(json.dumps({"found": plain(answer), "warnings": warnings}))
