"""Another configuration of the pool while the program runs: by SIGHUP, or by `pelagos cloud reload`.

Everything is read and checked before anything changes, so a configuration with a mistake is refused, and the old one
stays. Accounts that are written as before keep their drivers, and what runs on them; of those, the ones whose secrets
were rotated are opened anew. What an account that changed or went has out may end; see
:class:`pelagos.operations.OperationsEngine`. Settings of anything but the pool are those of the start.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import msgspec

from pelagos.clouds import Plugins, Pool
from pelagos.model.errors import PelagosError
from pelagos.model.world import World
from pelagos.process import Process, get_logger
from pelagos.runtime.pool_loading import auth_of, check_options
from pelagos.runtime.settings import Settings
from pelagos.wire.clouds import PoolChangeView

__all__ = ["PoolReloader", "PoolReloads", "reload_at_hangup"]

log = get_logger(__name__)


class PoolReloader:
    """Reads the pool's configuration anew. ``again`` loads the settings as the program's start did; ``pool`` answers
    the program's pool, None while nothing needs one."""

    def __init__(
        self, again: Callable[[], Settings], pool: Callable[[], Pool | None], plugins: Plugins, world: World
    ) -> None:
        self._again = again
        self._pool = pool
        self._plugins = plugins
        self._world = world
        self._lock = asyncio.Lock()

    async def reload(self, cloud: str = "") -> PoolChangeView:
        """What changed. ``cloud`` is opened anew in any case. Raises DescriptionError with all mistakes, InvalidInput,
        or NotFound for ``cloud``, and nothing has changed."""
        async with self._lock:
            settings = await self._world.run_blocking(self._read)
            pool = self._pool()
            if pool is None:
                return PoolChangeView()
            if cloud and cloud not in {account.name for account in settings.pool}:
                pool.account(cloud)
            change = pool.reload(settings.pool, simulated=settings.simulated, auth=auth_of(settings))
            renewed = set(await pool.renew_outdated())
            if cloud and cloud not in {*change.added, *change.changed, *renewed}:
                pool.renew(cloud)
                renewed.add(cloud)
            view = PoolChangeView(
                added=change.added,
                changed=change.changed,
                removed=change.removed,
                renewed=tuple(sorted(renewed)),
                kept=tuple(name for name in change.kept if name not in renewed),
            )
            told = {key: list(names) for key, names in msgspec.structs.asdict(view).items()}
            log.info("the pool was read anew", **told)
            return view

    def _read(self) -> Settings:
        settings = self._again()
        check_options(settings, self._plugins, self._world)
        return settings


class PoolReloads(Process):
    """Reloads the pool whenever it is poked: what a signal cannot wait for."""

    def __init__(self, reloader: PoolReloader) -> None:
        super().__init__()
        self._reloader = reloader
        self._poked = asyncio.Event()

    @property
    def label(self) -> str:
        return "pool reloads"

    def poke(self) -> None:
        """Reload soon."""
        self._poked.set()

    async def on_activate(self) -> None:
        self.start_task(self._run(), name="reloads")

    async def _run(self) -> None:
        while True:
            await self._poked.wait()
            self._poked.clear()
            try:
                await self._reloader.reload()
            except PelagosError as error:
                mistakes = [str(mistake) for mistake in error.diagnostics]
                log.error("the pool stays as it is", error=str(error), advice=error.advice, mistakes=mistakes)
            except OSError as error:
                log.error("the pool stays as it is", error=str(error))


def reload_at_hangup(reloads: PoolReloads) -> Callable[[], None]:
    """Have SIGHUP reload the pool; returns what undoes that."""
    loop = asyncio.get_running_loop()

    def hangup() -> None:
        log.info("told to read the pool anew", signal="SIGHUP")
        reloads.poke()

    def restore() -> None:
        loop.remove_signal_handler(signal.SIGHUP)

    loop.add_signal_handler(signal.SIGHUP, hangup)
    return restore
