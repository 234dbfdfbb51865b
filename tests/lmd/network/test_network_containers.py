"""Containers in the factory's network, by `lm run` on a host that has nothing of it yet."""

import os
from typing import IO

from lmd.metadata import launch


def test_a_container_finds_its_features_and_puts_its_outputs_by_http(host) -> None:
    script = """
set -ex
echo "$MACHINEFEATURES $JOBFEATURES $JOBOUTPUTS"
get() { wget -q -O - "$1"; }
get $JOBFEATURES/job_id; echo
[ "$(get $JOBFEATURES/job_id)" = "$(get http://169.254.169.254/latest/meta-data/instance-id)" ]
[ "$(get http://169.254.169.254/openstack/latest/user_data)" = "$(cat /user_data)" ]
get $MACHINEFEATURES/ | grep -q total_cpu
put() {
    printf 'PUT /joboutputs/%s HTTP/1.0\\r\\nContent-Length: %s\\r\\n\\r\\n%s' "$1" ${#2} "$2" | nc 169.254.169.253 80
}
put result 42 | grep 201
put heartbeat x | grep 201
put shutdown_message "200 Success by HTTP" | grep 201
"""
    done = host.lm("run", host.machinetype("http", script, features_form="http"), "-o", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "http://169.254.169.253/machinefeatures http://169.254.169.253/jobfeatures" in said
    assert "200 Success by HTTP" in done.stderr
    assert (host.home / "work/out/joboutputs/result").read_text() == "42"
    assert launch.serving(host.run_dir), "the server outlives the run"
    assert not any((host.home / "state/machines").iterdir())


def test_docker_containers_join_it_too_and_are_kept_to_their_addresses(docker_host) -> None:
    script = """
get() { timeout 20 wget -q -O - "$1"; }
[ "$(get $JOBFEATURES/job_id)" = "$(get http://169.254.169.254/latest/meta-data/instance-id)" ] && echo known
id=$(get $JOBFEATURES/job_id)
put() {
    printf 'PUT /joboutputs/%s HTTP/1.0\\r\\nContent-Length: %s\\r\\n\\r\\n%s' $1 ${#2} "$2" | nc 169.254.169.253 80
}
ip addr show eth0
put id "$id" | grep 201
put shutdown_message "200 Success on Docker" | grep 201
ip addr add 169.254.1.7/16 dev eth0 2>&1 | grep -i perm
"""
    done = docker_host.lm(
        "run", docker_host.machinetype("http", script, runtime="docker", features_form="http"), "-o", "out"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inet6 fd" in done.stdout, "Docker's namespaces come without IPv6"
    assert "known" in done.stdout
    assert "not permitted" in done.stdout, "a container may change its own address"
    assert "200 Success on Docker" in done.stderr
    assert len((docker_host.home / "work/out/joboutputs/id").read_text()) == 36


def test_a_killed_server_and_a_lost_bridge_are_back_while_the_machine_runs(host) -> None:
    script = """
trap 'exit 0' TERM
while :; do
    timeout 2 wget -q -O - http://169.254.169.254/latest/meta-data/ami-id >/dev/null && echo answered || echo silent
    sleep 0.2
done
"""
    running = host.start("run", host.machinetype("long", script), "--grace", "1")
    assert running.stdout
    try:
        _until(running.stdout, "answered")
        os.kill(host.server(), 9)
        _until(running.stdout, "has been mended")
        _until(running.stdout, "answered")
        host.run("ip", "link", "del", "lmd0")
        _until(running.stdout, "has been mended")
        _until(running.stdout, "answered")
    finally:
        running.terminate()
        running.communicate(timeout=40)
    assert running.returncode == 15


def _until(stream: IO[str], word: str) -> str:
    """What is said up to a line that holds the word; the test's time limit ends what never comes."""
    said = ""
    while word not in (line := stream.readline()):
        assert line, said
        said += line
    return said + line


def test_the_patterns_of_user_data_are_urls_in_the_http_form(host) -> None:
    script = 'echo "##user_data_machinefeatures_url## ##user_data_joboutputs_url##"'
    done = host.lm("run", host.machinetype("patterns", script, features_form="http"))
    assert "http://169.254.169.253/machinefeatures http://169.254.169.253/joboutputs" in done.stdout


def test_the_path_form_works_there_too(host) -> None:
    done = host.lm("run", host.machinetype("path", "cat $JOBFEATURES/allocated_cpu; ip addr show eth0"), "-p", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1")
    assert "inet 169.254." in done.stdout
    assert "56:4d:a9:fe:" in done.stdout


def test_what_is_in_the_way_is_named_and_stops_only_types_that_need_the_network(host) -> None:
    host.run("ip", "link", "add", "zeroconf", "type", "bridge")
    host.run("ip", "addr", "add", "169.254.10.2/16", "dev", "zeroconf")
    host.run("ip", "link", "set", "zeroconf", "up")
    done = host.lm("run", host.machinetype("wants", "true"))
    assert done.returncode == 20
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(
        "lm: machinetype wants: the network 169.254.0.0/16 belongs to zeroconf (169.254.10.2/16)"
    )
    assert host.lm("run", host.machinetype("plain", "true", network="none")).returncode == 0


def test_an_interface_of_our_name_that_is_no_bridge_is_left_alone(host) -> None:
    host.run("ip", "link", "add", "lmd0", "type", "veth", "peer", "name", "other")
    done = host.lm("run", host.machinetype("wants", "true"))
    assert done.returncode == 20
    assert "the interface lmd0 is there and no bridge" in done.stderr


def test_an_http_type_without_the_network_is_refused_by_its_keys(host) -> None:
    done = host.lm("run", host.machinetype("wrong", "true", features_form="http", network="bridge"))
    assert done.returncode == 20
    assert 'served in one network: network = "lmd"' in done.stderr
