"""A whole cloud image as a machine: cloud-init finds its datasource without a warning, runs user_data, PUTs, ends.

Minutes in emulation: `make soak` runs it.
"""

import json
import os

import pytest

from images.builder import chosen_epoch
from images.cache import default_directory, ensure
from images.recipe import find_recipe

USER_DATA = r"""#!/bin/bash
exec >>/var/tmp/said 2>&1
features=##user_data_machinefeatures_url##
outputs=##user_data_joboutputs_url##
put() { curl -sf -T - "$outputs/$1"; }
date | put heartbeat
cloud-init query --format '{{ds.meta_data.uuid or ds.meta_data["instance-id"]}}' | put query
cloud-init query v1.instance_id | put id
cloud-init query v1.local_hostname | put name
cloud-init query v1.platform | put platform
cloud-init query --all >/var/tmp/all && put all </var/tmp/all
cloud-init query v1.cloud_name | put cloud
curl -sf "$features/total_cpu" | put total_cpu
curl -sf -6 "http://[fd00:ec2::254]/latest/meta-data/instance-id" | put id6
df --output=size -B1 / | tail -1 | put root_bytes
findmnt -n -o FSTYPE /sys/fs/cgroup | put cgroup
(
    while ! cloud-init status | grep -q 'status: done\|status: error'; do sleep 1; done
    cloud-init status --long | put status
    put result </run/cloud-init/result.json
    grep -a WARN /var/log/cloud-init.log | put warnings
    if cloud-init query v1.platform | grep -q openstack; then
        # The other tree, by cloud-init itself too: as if ds-identify had not found OpenStack.
        cloud-init clean --logs
        echo 'datasource_list: [Ec2, None]' | tee /run/cloud-init/cloud.cfg >/etc/cloud/cloud.cfg.d/99-ec2.cfg
        cloud-init init
        for key in platform instance_id local_hostname availability_zone; do
            echo "$key $(cloud-init query "v1.$key")"
        done | put ec2
        cloud-init query ds.meta_data | put ec2_meta_data
        cloud-init query userdata | head -c 11 | put ec2_user_data
        # netplan's are about its own file, and only come of doing this in a system that is up.
        grep -a '\[WARNING\]' /var/log/cloud-init.log | grep -av "'netplan', 'apply'" | put ec2_warnings
    fi
    put said </var/tmp/said
    echo "200 Success of a cloud image" | put shutdown_message
    systemctl poweroff
) &
"""


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("image", "contextualisation"), [("debian-vm", "metadata"), ("debian-vm", "seed"), ("debian-vm-13", "metadata")]
)
def test_a_cloud_image_is_contextualised_and_ends_as_it_is_told(
    libvirt_host, image: str, contextualisation: str
) -> None:
    # Built beforehand: the tests' libvirt is in a network from which no mirror is reached.
    epoch = chosen_epoch(os.environ, 1_795_000_000)
    ensure(default_directory(os.environ, os.geteuid()), find_recipe(image), epoch)
    home = libvirt_host.home
    (home / "user_data").write_text(USER_DATA)
    (home / "cloud.toml").write_text(
        f'[machinetypes.cloud]\nmachine_model = "vm-raw"\nroot_image = "lmd:{image}"\nuser_data = "user_data"\n'
        f'contextualisation = "{contextualisation}"\nmb_per_processor = 1024\nheartbeat_file = "heartbeat"\n'
        "max_wallclock_seconds = 3000\nfizzle_seconds = 2400\n"
    )
    done = libvirt_host.lm("run", "cloud.toml", "--json", "-p", "1", "-o", "out")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert summary["outcome"]["message"] == "200 Success of a cloud image"
    found = {path.name: path.read_text().strip() for path in (home / "out/joboutputs").iterdir()}
    print(json.dumps(found, indent=1))
    assert found["id"] == found["id6"] == found["query"]
    assert found["name"] == summary["id"]
    # cloud-init has no cloud's name for a seed.
    named = ("openstack", "openstack") if contextualisation == "metadata" else ("nocloud", "unknown")
    assert (found["platform"], found["cloud"]) == named
    everything = json.loads(found["all"])
    assert everything["v1"]["instance_id"] == found["id"]
    if contextualisation == "metadata":
        assert everything["ds"]["meta_data"]["uuid"] == found["id"]
        assert everything["ds"]["meta_data"]["hostname"].startswith(summary["id"])
        _is_ec2(found, summary["id"])
    else:
        assert everything["ds"]["meta_data"]["instance-id"] == found["id"]
    assert found["total_cpu"] == "1"
    assert found["cgroup"] == "cgroup2fs" or found["cgroup"] == "cgroup2"
    assert int(found["root_bytes"]) > 8 * 10**9, "the root has not grown"
    assert "status: done" in found["status"]
    assert found["warnings"] == ""
    assert json.loads(found["result"])["v1"]["errors"] == []
    assert ("OpenStack" if contextualisation == "metadata" else "NoCloud") in found["status"]


def _is_ec2(found: dict[str, str], name: str) -> None:
    """What `cloud-init query` tells of the EC2 tree."""
    standard = dict(line.split(" ", 1) for line in found["ec2"].splitlines())
    assert standard.pop("availability_zone"), found["ec2"]
    assert standard == {"platform": "ec2", "instance_id": found["id"], "local_hostname": name}
    told = json.loads(found["ec2_meta_data"])
    assert (told["instance-id"], told["local-hostname"], told["instance-type"]) == (found["id"], name, "cloud")
    assert told["local-ipv4"].startswith("169.254.")
    assert (found["ec2_user_data"], found["ec2_warnings"]) == ("#!/bin/bash", "")
