"""`runtime = "auto"`: the first that works and has what the type needs, with the reason; no engine is asked here."""

from lmd.choosing import Offer, offer, why
from lmd.config.load import machinetype
from lmd.config.models import Policy, Settings
from lmd.machine.spec import needed
from runtimes.contract import Capabilities, Health, Image, ImageKind, Limit, Limits, Network, Probe, Spec

CAN = Capabilities(
    isolation="container",
    images=frozenset(ImageKind),
    networks=frozenset(Network),
    limits=frozenset(Limit),
)
WORKS = Probe(health=Health.HEALTHY, capabilities=CAN)
MISSING = Probe(health=Health.MISSING, reason="podman is not installed", remedy="apt-get install podman")
NESTED = Spec(
    id="m",
    owner="run:0",
    space="s",
    machinetype="t",
    image=Image(kind=ImageKind.REFERENCE, location="i"),
    nested_containers=True,
)


def plain(**changes: object) -> Spec:
    values = {"id": "m", "owner": "run:0", "space": "s", "machinetype": "t"} | changes
    return Spec(image=Image(kind=ImageKind.REFERENCE, location="i"), **values)  # type: ignore[arg-type]


def test_one_that_works_and_has_all_is_good() -> None:
    made = offer("podman", WORKS, plain(limits=Limits(processors=1)), "container")
    assert made.good
    assert made.problem == ""
    assert why(made, []) == "podman comes first, works here and has what the type needs"


def test_one_that_lacks_something_is_passed_over_with_the_reason() -> None:
    refused = offer("docker", WORKS, NESTED, "container")
    assert not refused.good
    assert refused.problem == "docker on this host lacks nested containers"
    taken = Offer("podman", WORKS)
    assert why(taken, [refused]).endswith("; docker on this host lacks nested containers")


def test_one_that_is_missing_says_what_to_type() -> None:
    made = offer("podman", MISSING, plain(), "container")
    assert made.problem == "podman is missing: podman is not installed (apt-get install podman)"


def test_one_of_another_isolation_is_passed_over() -> None:
    assert 'isolation "vm"' in offer("podman", WORKS, plain(), "vm").problem


def test_what_a_type_needs_is_known_before_anything_is_made_for_it() -> None:
    table = {"root_image": "/nowhere", "entrypoint": ["/x"], "nested_containers": True, "network": "lmd"}
    made, wrong = machinetype("t", table, Settings(space="s"), Policy(nested_containers=True))
    assert made is not None, wrong
    wanted = needed(made)
    assert wanted is not None
    assert offer("podman", WORKS, wanted, made.isolation).lacking == ("nested containers",)
