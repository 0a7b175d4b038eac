"""Where a model's weights come from, and how they get onto a device: at first, and again on another
when the device is lost or has no room."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gpt2web import selftest
from gpt2web.backbone import GPT2Backbone
from gpt2web.blocking import is_blocking
from gpt2web.checkpoint import Folder, open_checkpoint
from gpt2web.generate import Losses
from gpt2web.gpu import Device, DeviceError, DeviceLost, OutOfMemory
from gpt2web.head_start import Memory, open_device, write_pipelines
from gpt2web.limits import check_cache, weights_bytes
from gpt2web.precision import PRECISIONS, choose_precision, is_packed
from gpt2web.progress import Report
from gpt2web.weights import LOADING_KERNELS

RESTARTING = "The graphics card was lost; starting it again."
# Seconds between tries to get a device anew: a browser's GPU process takes a while to come back.
WAITS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)

WarmUp = Callable[[], Awaitable[None]]


class Origin:
    """A model folder whose weights a backbone has, in a precision.

    precision: None is what the folder holds. memory: what earlier visits found out. recovering:
    called with a sentence when a device begins to take a lost one's place, and with None when it
    has, or can't. tested: whether each device has to pass the self-test.
    """

    def __init__(
        self,
        folder: Folder,
        precision: str | None = None,
        adapter: str | None = None,
        memory: Memory | None = None,
        recovering: Callable[[str | None], object] | None = None,
        tested: bool = True,
    ) -> None:
        self.folder = folder
        self.precision = precision
        self.adapter = adapter
        self.memory = memory
        self.recovering = recovering
        self.tested = tested
        self.self_test = "not run"
        self.notice: str | None = None  # where it is not as was asked for, a sentence that says so
        self._stored = ""  # the folder's own precision
        self._told: str | None = None  # what recovering was called with last
        self._started = False  # once

    async def start(
        self,
        backbone: GPT2Backbone,
        progress: Report | None = None,
        warm_up: WarmUp | None = None,
    ) -> None:
        """Put a device with the weights into the backbone, in place of the one it has.

        A device that is lost on the way is replaced, one without room gets a smaller precision
        where the files can be packed to it. Raises CheckpointError; DeviceError where there is no
        device, none that computes as it should, none that stays, none with room.
        """
        losses = Losses()
        if self._started:
            self._tell(RESTARTING)
        try:
            while True:
                backbone.drop_device()
                try:
                    await self._load(backbone, progress, warm_up)
                    self._started = True
                    return
                except DeviceLost as error:
                    losses.add(error)
                    self._tell(RESTARTING)
                except OutOfMemory as error:
                    self._shrink(backbone, error)
        except BaseException:
            backbone.drop_device()
            raise
        finally:
            self._tell(None)

    def _tell(self, sentence: str | None) -> None:
        if sentence != self._told:
            self._told = sentence
            if self.recovering is not None:
                self.recovering(sentence)

    async def _load(
        self, backbone: GPT2Backbone, progress: Report | None, warm_up: WarmUp | None
    ) -> None:
        """One try: folder -> device -> kernels that compute as they should -> weights."""
        config, memory = backbone.config, self.memory
        checkpoint = await open_checkpoint(self.folder, config)
        try:
            self._stored = checkpoint.precision
            asked = choose_precision(self.folder.name, self._stored, self.precision)
            self.precision = asked
            device, pipelines = await self._open_device()
            backbone.take_device(device)
            backbone.precision = asked
            check_cache(device, config, 1, config.max_sequence_length)
            backbone.precision = await self._trusted(device, asked) if self.tested else asked
            device.used.clear()
            await device.pipelines(*LOADING_KERNELS)
            await backbone.fill(checkpoint, progress)
            await device.pipelines()
            if warm_up is not None:
                await warm_up()
                if memory and pipelines and not device.used.keys() <= device.compiled:
                    await memory.remember(pipelines, write_pipelines(device))
        finally:
            checkpoint.close()

    async def _open_device(self) -> tuple[Device, str | None]:
        """head_start.open_device; it is waited for where another device was lost."""
        for wait in WAITS if self._told is not None and not is_blocking() else ():
            try:
                return await open_device(self.adapter, self.memory)
            except DeviceError:
                await asyncio.sleep(wait)
        return await open_device(self.adapter, self.memory)

    async def _trusted(self, device: Device, asked: str) -> str:
        """The precision to trust. Raises DeviceError where the folder can't be had in it."""
        precision, self.self_test = await selftest.run(device, asked, self.memory)
        if precision != asked and is_packed(self._stored):
            raise DeviceError(
                f"{self.folder.name} is stored in {asked}, which {device.info['adapter']} computes "
                f"wrongly (self-test: {self.self_test}). Take the model in f32 or f16, update the "
                "graphics driver, or choose another adapter or browser",
                code="device-wrong",
            )
        return precision

    def _shrink(self, backbone: GPT2Backbone, error: OutOfMemory) -> None:
        """The next smaller precision, for the next try. Raises DeviceError where there is none."""
        assert self.precision is not None  # what was tried; f32 was taken where it computed wrongly
        precision = backbone.precision
        needed = max(error.needed, weights_bytes(backbone.config, precision))
        numbers = f"{needed:,} bytes were needed, {error.had:,} could be had"
        smaller = PRECISIONS[PRECISIONS.index(self.precision) + 1 :]
        if is_packed(self._stored) or not smaller:
            raise DeviceError(
                f"there is no room on the GPU for {self.folder.name} in {precision}: {numbers}. "
                "Close other tabs and programs that use it, or take a smaller model",
                code="device-memory",
            ) from error
        self.precision = smaller[0]
        self.notice = (
            f"There was no room on the GPU for the weights in {precision}: {numbers}. "
            f"They are kept in {self.precision} instead."
        )
