"""What the machines of this host share, kept in order: images within their budget, the network whole."""

import os

from lmd.factory.chores import Chore, Chores
from lmd.factory.host import Premises
from lmd.factory.ready import Ready
from lmd.factory.warnings import Kind
from lmd.image_store import keep_within_budget
from lmd.machine import connection
from lmd.network import factory_network
from lmd.repositories import keeping

IMAGES_SECONDS = 900.0
"""Between two looks at the images."""
PRUNE_SECONDS = 3600.0
NETWORK_SECONDS = 10.0
MEND_SECONDS = 90.0
REPOSITORIES_SECONDS = 600.0


class Upkeep:
    """Chores of one factory."""

    def __init__(self, here: Premises, ready: Ready, chores: Chores, repositories: keeping.Keeping) -> None:
        self._here, self._ready, self._thread = here, ready, chores.thread
        self._repositories = repositories

    def chores(self) -> list[Chore]:
        """All of them. Add what has to be looked at now and then here: with a deadline, and blocking calls in a thread
        of their own, so that it holds up nothing else."""
        images = Chore(name="images", work=self._images, rest=IMAGES_SECONDS, within=PRUNE_SECONDS)
        network = Chore(name="network", work=self._network, rest=NETWORK_SECONDS, within=MEND_SECONDS)
        repositories = Chore(
            name="repositories", work=self._kept, rest=keeping.LOOK_SECONDS, within=REPOSITORIES_SECONDS
        )
        return [images, repositories, network] if os.geteuid() == 0 else [images, repositories]

    async def _images(self) -> None:
        """Remove what was used least recently while all images take more than `image_budget`; those of configured
        types, of machines, and what was brought just now stay."""
        here = self._here
        gone, problems = await keep_within_budget(here.config, here.places, tuple(here.engines), self._ready.fresh())
        if gone:
            self._ready.look_again()
            here.say("images-removed", images=[f"{image.name} ({image.where})" for image in gone])
        here.ledger.warnings.hold(Kind.IMAGES, {"": "; ".join(problems)} if problems else {})

    async def _network(self) -> None:
        """Mend the network beneath running machines, if it is broken."""
        here = self._here
        run, wanted = here.places.run, connection.settings(here.config.network, here.config.runtimes)
        try:
            mended = await self._thread(lambda: factory_network.check_and_mend(run, wanted))
        except connection.NetworkFault as fault:
            here.ledger.warnings.raised(Kind.NETWORK, "", str(fault))
            return
        here.ledger.warnings.resolved(Kind.NETWORK)
        if mended:
            here.say("network-mended")

    async def _kept(self) -> None:
        """Keep the repositories of types in use mounted; those that do not answer stop only types that need them."""
        here, kept = self._here, self._repositories
        before = kept.states
        await self._thread(lambda: kept.look(here.config))
        here.ledger.warnings.hold(Kind.REPOSITORY, kept.problems)
        while kept.done:
            kind, name, why = kept.done.pop(0)
            here.say(kind, repository=name, problem=why)
        if kept.states != before:
            here.wake()
