"""`finetune`: text → task → tokens → batches → model → loss → checkpoint."""

import contextlib
import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np

from gpt_tf2.backend.compiling import eagerly, use_xla
from gpt_tf2.backend.hardware import has_fast_bfloat16
from gpt_tf2.backend.memory import device_memory, free_memory
from gpt_tf2.backend.starting import start
from gpt_tf2.checkpoints import (
    adapters,
    find_config,
    find_tokenizer,
    home,
    open_checkpoint,
    read_model,
    save_model,
    save_vocabulary,
)
from gpt_tf2.commands.engine import SAMPLE, SAMPLED
from gpt_tf2.commands.finetune_settings import FinetuneSettings, run_identity
from gpt_tf2.commands.flags import format_flags
from gpt_tf2.commands.progress import TrainingDisplay
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.data.batches import Batches
from gpt_tf2.data.dataset import read_data
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write, check_writable
from gpt_tf2.tasks import find_task
from gpt_tf2.training.memory import choose_plan, predict_total
from gpt_tf2.training.state import History, load_state, read_run, save_state


def finetune(settings: FinetuneSettings) -> Path:
    """Fine-tunes a model and writes it to `output/`, with its loss curve `NAME.png` and its folder `NAME/` beside it.

    The folder holds the vocabulary, TensorBoard's logs (`logs/`) and `state.h5`, from which `resume` goes on.

    Returns:
        The path of the fine-tuned model, for `load_model`.

    Raises InputError if a setting or a file is bad, the output cannot be written, or training diverges.
    """
    output = settings.output()
    folder = Path("models") / settings.model
    checkpoint = open_checkpoint(settings.model_ckpt or folder)
    config = find_config(checkpoint, settings.json_hparams, folder)
    if settings.length > config.n_ctx:
        raise InputError(f"--length {settings.length} is above n_ctx {config.n_ctx} of {checkpoint.path}: shorten it")
    tokenizer = find_tokenizer(checkpoint.path, config, settings.json_encoder, settings.vocab_bpe, folder)
    data = read_data(settings, tokenizer)
    state = home(output) / "state.h5"
    resumed = settings.resume and state.is_file()
    begun = read_run(state) if resumed else {}
    device = start(lean=needs_remat(settings, config))
    from gpt_tf2.training.devices import find_devices

    settings = decided(settings, config, begun)
    output = settings.output()
    devices = find_devices(settings.devices)
    plan = settings.memory_plan(settings.precision)
    trained = settings.trained(config)
    parameters, learning = (sum(map(math.prod, shapes.values())) for shapes in (tensor_shapes(config), trained))
    # What is trained and the optimizer's two means of it in the state, and the model.
    written = 4 * (3 * learning + (learning if settings.lora_rank else parameters))
    check_writable(home(output), written, "choose another --output_name, or mend the permissions")

    from gpt_tf2.commands.generate import sampled_text
    from gpt_tf2.decoding.keras_graph import GraphDecoder
    from gpt_tf2.generation.sampling import make_sampler
    from gpt_tf2.training.loop import TrainingPlan, train
    from gpt_tf2.training.lora import add_adapters
    from gpt_tf2.training.monitor import Monitor
    from gpt_tf2.training.optimizers import make_optimizer
    from gpt_tf2.training.trainer import Trainer

    # Weights that are neither trained nor saved can be held as they are computed with.
    model = read_model(
        checkpoint,
        config,
        settings.dropout,
        settings.precision,
        settings.precision if settings.lora_rank else "float32",
    )
    if settings.lora_rank:
        add_adapters(model, trained, settings.seed)
    optimizer = make_optimizer(settings.optimizer, settings.weight_decay)
    remat = settings.remat == "on"
    trainer = Trainer(model, optimizer, trained, remat, settings.accumulate, settings.clip_norm, shard=devices.shard)
    run = run_identity(settings, config, data.key)
    history = load_state(state, trainer, run) if resumed else History()

    per_epoch = settings.steps_per_epoch
    steps = settings.num_epoch * per_epoch
    every = per_epoch, settings.sample_every, settings.save_every
    training_plan = TrainingPlan(steps, settings.batch_size, settings.seed, *every)
    decoder = GraphDecoder(model, device)

    def sample() -> str:
        completion = sampled_text(decoder, tokenizer, data.prompt, 100, make_sampler(top_k=40), settings.seed)
        stop = find_task(settings.data_loader).STOP
        completion = completion.split(stop)[0] if stop else completion
        return f"sample: {tokenizer.decode(data.prompt)[-200:]}{completion}"

    def save() -> None:
        if not devices.is_main:
            return
        from gpt_tf2.training.curve import draw_curve  # with matplotlib, which no first step need wait for

        save_state(state, trainer, history, run)
        if settings.lora_rank:
            adapters.write(output, config, checkpoint, trainer.trained)
            save_vocabulary(tokenizer, output)
        else:
            save_model(model, output, tokenizer)
        draw_curve(output.with_suffix(".png"), history, output.stem)

    gigabytes = predict_total(config, plan) / 1e9
    chosen = f"{format_flags(plan.settings())}: {learning:,} parameters are trained, about {gigabytes:.1f} GB are taken"
    training, validation = data.batches(use_xla())
    if validation and devices.is_main:
        write_sample(home(output) / SAMPLE, validation)
    with (
        TrainingDisplay(steps, len(history.losses), devices.is_main) as display,
        Monitor(steps, home(output) / "logs", display, devices.is_main) as monitor,
    ):
        monitor.say(f"{checkpoint.path}: {parameters:,} parameters, {settings.precision}, {device}{devices.describe()}")
        monitor.say(chosen)
        for line in data.about:
            monitor.say(line)
        if settings.resume:
            monitor.say(f"{state}: going on after step {len(history.losses)}" if resumed else f"{state}: no save yet")
        with eagerly() if settings.eager else contextlib.nullcontext(), devices.report_lost_process():
            finished = train(
                trainer, settings.schedule(), training, validation, training_plan, history, monitor, save, sample
            )
        monitor.say(f"{output}: saved{'' if finished else f' after step {len(history.losses)}; go on with --resume'}")
        monitor.say(f"{output.with_suffix('.png')}: the loss curve")
    return output


def write_sample(path: Path, validation: Batches) -> None:
    """Keeps some tokens that the model does not learn, for `--quantize` to measure on."""
    windows = itertools.islice(validation.windows(1, SAMPLED), SAMPLED)
    tokens = itertools.chain.from_iterable(batch.tokens[batch.segments > 0].tolist() for batch in windows)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.fromiter(itertools.islice(tokens, SAMPLED), "int32"))


def needs_remat(settings: FinetuneSettings, config: GPT2Config) -> bool:
    """Whether memory will be short on a CPU."""
    memory = settings.given_memory() or free_memory()
    short = memory is not None and predict_total(config, settings.memory_plan("bfloat16")) > memory
    return settings.remat == "on" or (settings.remat == "auto" and short)


def decided(settings: FinetuneSettings, config: GPT2Config, begun: dict) -> FinetuneSettings:
    """The settings with what was left to be decided by the device, and by its memory.

    Args:
        begun: the settings of the run that is resumed, by flag.

    Raises InputError if the run will not fit.
    """
    precision = settings.precision
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16() else "float32"
    asked, remat = settings.memory_plan(precision), settings.remat
    if remat == "auto":
        remat = begun.get("--remat", "auto")
    memory = settings.given_memory() or device_memory()
    if memory is None:
        plan = dataclasses.replace(asked, remat=remat == "on")
    else:
        plan = choose_plan(config, asked, memory, remat, flexible=settings.memory is not None)
    return dataclasses.replace(
        settings,
        precision=precision,
        remat="on" if plan.remat else "off",
        optimizer=plan.optimizer,
        lora_rank=plan.lora_rank,
    )
