"""The models of a server by name: loaded when first asked for, and unloaded where others need the memory."""

import asyncio
import contextlib
import dataclasses
import gc
import math
from collections.abc import AsyncIterator, Callable, Mapping

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.decoding.decoder import Decoder, warm_up
from gpt_tf2.errors import InputError
from gpt_tf2.generation.samples import sample_tokens
from gpt_tf2.generation.sampling import make_sampler
from gpt_tf2.serving.api_errors import ApiError
from gpt_tf2.serving.worker import Worker

RETRY_AFTER = 5  # seconds


@dataclasses.dataclass(eq=False)
class Served:
    """A model that the server offers.

    load: makes its decoder, which takes a while.
    size: the bytes that it takes in memory while it is loaded.
    learned_coqa: whether it answers questions about a passage, as it learned from CoQA.
    worker: runs it, once it is loaded.
    jobs: how many requests use it. used: a number that is higher the later it was used.
    """

    name: str
    opened: OpenedModel
    load: Callable[[], Decoder]
    size: float = 0
    learned_coqa: bool = False
    worker: Worker | None = None
    jobs: int = 0
    used: int = 0

    @property
    def chat(self) -> str | None:
        """How it chats: in "messages" of its template, about a "passage" as in CoQA, or not at all."""
        if self.opened.chat_template is not None:
            return "messages"
        return "passage" if self.learned_coqa else None


class Models:
    """Keeps the models within the memory. But for `load_first` and `close`, all runs on the event loop.

    Args:
        served: the models by name.
        slots: completions at a time, of each model.
        queue: requests that may wait for a model, beside `slots` that run.
        memory: bytes for all models together. One alone is always loaded.
        draft: whether to use speculative decoding by prompt lookup.
    """

    def __init__(
        self, served: Mapping[str, Served], slots: int, queue: int, memory: float = math.inf, draft: bool = False
    ):
        self.served = dict(served)
        self.slots = slots
        self._queue, self._memory, self._draft = queue, memory, draft
        self._loading = asyncio.Lock()
        self._clock = 0

    def find(self, name: str | None) -> Served:
        """A model by its name, or the only one. Raises ApiError if there is none of that name."""
        if name is None and len(self.served) == 1:
            return next(iter(self.served.values()))
        if name not in self.served:
            known = ", ".join(self.served)
            wrong = "model: required" if name is None else f"model: there is no {name[:100]!r}"
            raise ApiError(f"{wrong}: use {known}", "model", 400 if name is None else 404, "model_not_found")
        return self.served[name]

    @contextlib.asynccontextmanager
    async def use(self, served: Served) -> AsyncIterator[Worker]:
        """A model's worker, for one request. The model is loaded first if it is not yet.

        Raises ApiError if too many requests wait, or if the model cannot be loaded.
        """
        if served.jobs >= self.slots + self._queue:
            raise ApiError("too many requests wait: try again later", None, 429, "queue_full", RETRY_AFTER)
        self._clock += 1
        served.jobs, served.used = served.jobs + 1, self._clock
        try:
            if served.worker is None:  # shielded: the thread that loads cannot be stopped, nor may a second one start
                await asyncio.shield(asyncio.ensure_future(self.load(served)))
            assert served.worker is not None
            yield served.worker
        finally:
            served.jobs -= 1

    def load_first(self) -> None:
        """Loads the first model before the server starts. Raises InputError if that fails."""
        served = next(iter(self.served.values()))
        served.worker = self._start(served, load_warm(served))

    def _start(self, served: Served, decoder: Decoder) -> Worker:
        return Worker(decoder, served.opened.tokenizer.end_of_text, self.slots, self._draft)

    async def load(self, served: Served) -> None:
        """Loads a model, unless it is loaded. Raises ApiError if that fails, or there is no memory for it."""
        async with self._loading:
            if served.worker is not None:
                return
            await self._make_room(served)
            try:
                decoder = await asyncio.to_thread(load_warm, served)
            except InputError as error:
                raise ApiError(str(error), "model", 503, "model_not_loaded") from None
            served.worker = self._start(served, decoder)

    async def _make_room(self, new: Served) -> None:
        """Unloads the models that were used least recently until a new one fits."""
        while loaded := [other for other in self.served.values() if other.worker is not None]:
            if sum(other.size for other in loaded) + new.size <= self._memory:
                return
            idle = [other for other in loaded if not other.jobs]
            if not idle:
                message = f"the models in use leave no memory for {new.name}: try again later"
                raise ApiError(message, "model", 503, "memory_full", RETRY_AFTER)
            await self._unload(min(idle, key=lambda other: other.used))
            gc.collect()

    async def _unload(self, served: Served) -> None:
        worker, served.worker = served.worker, None
        if worker is not None:
            await asyncio.to_thread(worker.close)

    def close(self) -> None:
        """Ends the threads of all models, after the event loop has ended. What they run is lost."""
        for served in self.served.values():
            if served.worker is not None:
                served.worker.close()
                served.worker = None


def load_warm(served: Served) -> Decoder:
    """A model's decoder, which has generated two tokens, so that what is compiled or cached at first use is."""
    decoder = served.load()
    if decoder.drafter:
        warm_up(decoder.drafter)
    # Nothing ends them, so that there are two.
    sample_tokens(decoder, [served.opened.tokenizer.end_of_text], 1, 2, make_sampler(top_p=0.9), end=-1)
    return decoder


def count_bytes(config: GPT2Config, bytes_per_number: int, slots: int) -> float:
    """What a loaded model takes in memory: its weights, and the keys and values of `slots` full contexts."""
    weights = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    cached = slots * config.n_ctx * config.n_layer * 2 * config.n_embd
    return float(bytes_per_number * (weights + cached))
