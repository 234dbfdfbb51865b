"""What the machines of this host share, kept in order: images within their budget."""

from lmd.factory.chores import Chore, Chores
from lmd.factory.host import Premises
from lmd.factory.ready import Ready
from lmd.factory.warnings import Kind
from lmd.image_store import keep_within_budget

IMAGES_SECONDS = 900.0
"""Between two looks at the images."""
PRUNE_SECONDS = 3600.0


class Upkeep:
    """Chores of one factory."""

    def __init__(self, here: Premises, ready: Ready, chores: Chores) -> None:
        self._here, self._ready, self._chores = here, ready, chores

    def chores(self) -> list[Chore]:
        """All of them. Add what has to be looked at now and then here: with a deadline, and blocking calls by
        `Chores.thread`, so that it holds up nothing else."""
        return [Chore(name="images", work=self._images, rest=IMAGES_SECONDS, within=PRUNE_SECONDS)]

    async def _images(self) -> None:
        """Remove what was used least recently while all images take more than `image_budget`; those of configured
        types, of machines, and what was brought just now stay."""
        here = self._here
        gone, problems = await keep_within_budget(here.config, here.places, tuple(here.engines), self._ready.fresh())
        if gone:
            self._ready.look_again()
            here.say("images-removed", images=[f"{image.name} ({image.where})" for image in gone])
        here.ledger.warnings.hold(Kind.IMAGES, {"": "; ".join(problems)} if problems else {})
