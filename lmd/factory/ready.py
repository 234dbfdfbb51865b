"""Images made ready before machines of them are asked for: built or fetched once, in the background, by each engine."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from images.errors import ImageError
from lmd.config.models import Config, MachineType
from lmd.factory.rows import Clocks
from lmd.machine.image import NoImage
from lmd.machine.material import Material, material_of
from lmd.places import Places
from lmd.repositories.handing import located
from lmd.repositories.provider import NoRepositories
from runtimes.contract import ImageKind, Images, Runtime, RuntimeFault

FETCH_SECONDS = 3600.0
AGAIN_SECONDS = 60.0
LONGEST_AGAIN = 1800.0
FRESH_SECONDS = 3600.0
Key = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """Why an image cannot be had, until when in seconds of the boot that is not tried again, how long that was."""

    reason: str
    until: float
    seconds: float


class Ready:
    """The images of machinetypes on runtimes."""

    def __init__(
        self,
        config: Callable[[], Config],
        places: Places,
        clocks: Clocks,
        told: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._places, self._clocks, self._told, self._tell = config, places, clocks, told, tell
        self._ready: dict[Key, Material] = {}
        self._failed: dict[Key, Failed] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._brought: dict[str, float] = {}

    def image(self, type_: MachineType, runtime: Runtime) -> Material | str:
        """The image, or why it is not there yet; then it is being fetched."""
        key = (type_.root_image, type_.pull, runtime.name, *_made_by(type_))
        if key in self._ready:
            return self._ready[key]
        failed = self._failed.get(key)
        if failed is not None and failed.until > self._clocks.boot():
            return failed.reason
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._fetch(key, type_, runtime))
        return failed.reason if failed else "its image is being fetched"

    def look_again(self) -> None:
        """Ask for each image again before a machine is made of it: some have been removed."""
        self._ready.clear()

    def fresh(self) -> set[str]:
        """The ids of images that were brought within the last hour, for machines that may be made of them yet."""
        since = self._clocks.boot() - FRESH_SECONDS
        self._brought = {name: at for name, at in self._brought.items() if at > since}
        return set(self._brought)

    async def aclose(self) -> None:
        """Give up what is under way."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _fetch(self, key: Key, type_: MachineType, runtime: Runtime) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                type_ = await located(type_, self._config(), self._places)
                made = await material_of(type_, self._config(), self._places, self._tell)
                if isinstance(runtime, Images) and made.image.kind is not ImageKind.ROOT_DIRECTORY:
                    self._brought[await runtime.ensure(made.image)] = self._clocks.boot()
            self._ready[key] = made
            self._failed.pop(key, None)
        except TimeoutError:
            self._fail(key, f"its image was not fetched within {FETCH_SECONDS:g} s")
        except (NoImage, ImageError, NoRepositories, RuntimeFault, OSError) as error:
            self._fail(key, str(error))
        except Exception as error:
            self._fail(key, f"{type(error).__name__}: {error}")
        finally:
            self._tasks.pop(key, None)
            self._told()

    def _fail(self, key: Key, reason: str) -> None:
        before = self._failed.get(key)
        seconds = min(2 * before.seconds, LONGEST_AGAIN) if before else AGAIN_SECONDS
        self._failed[key] = Failed(reason, self._clocks.boot() + seconds, seconds)


def _made_by(type_: MachineType) -> tuple[str | None, ...]:
    """What decides how a virtual machine starts from the image."""
    return (type_.machine_model, type_.isolation, type_.kernel, type_.initramfs, type_.kernel_arguments)
