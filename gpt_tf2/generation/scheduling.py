"""Choosing a scheduler: the loop on the device where JAX runs the model, or one step of the decoder at a time."""

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.generation.sampling import Sampler
from gpt_tf2.generation.scheduler import BaseScheduler, Scheduler


def make_scheduler(decoder: Decoder, sampler: Sampler, end: int, slots: int, draft: bool = False) -> BaseScheduler:
    """The fastest scheduler that can run a decoder's model with a sampler.

    Args:
        sampler: of all requests; they may have other values in its rules.
        end: the id that ends a completion.
        slots: how many requests run at a time.
        draft: whether to use speculative decoding by prompt lookup.

    Example:
        >>> scheduler = make_scheduler(decoder, sampler, tokenizer.end_of_text, slots=8)
        >>> scheduler.run_all([Request(prompt, 100, sampler, np.random.default_rng(0), ids.append)])
    """
    if loops_on_device(decoder, sampler, end):
        from gpt_tf2.generation.device_loop import DeviceScheduler

        return DeviceScheduler(decoder.model, end, slots, draft, decoder.undrawn)  # type: ignore[attr-defined]
    return Scheduler(decoder, end, slots, draft)


def loops_on_device(decoder: Decoder, sampler: Sampler, end: int) -> bool:
    """Whether the scheduler of `make_scheduler` is a `DeviceScheduler`, which takes requests for which this is true."""
    if not decoder.loops_on_device:
        return False
    from gpt_tf2.decoding.keras_graph import GraphDecoder
    from gpt_tf2.generation.device_loop import runs_on_device

    return isinstance(decoder, GraphDecoder) and runs_on_device(sampler, end)
