"""`finetune`: text → task → tokens → batches → model → loss → checkpoint."""

import contextlib
import math
from pathlib import Path

from gpt_tf2.backend import eagerly, has_fast_bfloat16, start, use_xla
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
from gpt_tf2.commands.data import read_data
from gpt_tf2.commands.finetune_settings import FinetuneSettings, run_identity
from gpt_tf2.config import tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.files import check_writable
from gpt_tf2.tasks import find_task


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
    trained = settings.trained(config)
    parameters, learning = (sum(map(math.prod, shapes.values())) for shapes in (tensor_shapes(config), trained))
    # What is trained and the optimizer's two means of it in the state, and the model.
    written = 4 * (3 * learning + (learning if settings.lora_rank else parameters))
    check_writable(home(output), written, "choose another --output_name, or mend the permissions")

    device = start(lean=settings.remat == "on")
    from gpt_tf2.commands.generate import sampled_text
    from gpt_tf2.generation.decoder import Decoder
    from gpt_tf2.generation.sampling import make_sampler
    from gpt_tf2.training.curve import draw_curve
    from gpt_tf2.training.loop import Plan, train
    from gpt_tf2.training.lora import add_adapters
    from gpt_tf2.training.monitor import Monitor
    from gpt_tf2.training.optimizers import find_optimizer
    from gpt_tf2.training.state import History, load_state, save_state
    from gpt_tf2.training.trainer import Trainer

    precision = settings.precision
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16() else "float32"
    # Weights that are neither trained nor saved can be held as they are computed with.
    model = read_model(checkpoint, config, settings.dropout, precision, precision if settings.lora_rank else "float32")
    if settings.lora_rank:
        add_adapters(model, trained, settings.seed)
    optimizer = find_optimizer(settings.optimizer, settings.weight_decay)
    remat = settings.remat == "on"
    trainer = Trainer(model, optimizer, trained, remat, settings.accumulate, settings.clip_norm)
    state = home(output) / "state.h5"
    run = run_identity(settings, config, data.key, precision)
    resumed = settings.resume and state.is_file()
    history = load_state(state, trainer, run) if resumed else History()

    per_epoch = settings.steps_per_epoch
    steps = settings.num_epoch * per_epoch
    plan = Plan(steps, settings.batch_size, settings.seed, per_epoch, settings.sample_every, settings.save_every)
    decoder = Decoder(model)

    def sample() -> str:
        text = sampled_text(decoder, tokenizer, data.prompt, 1, 100, make_sampler(top_k=40), settings.seed)[0]
        asked = len(tokenizer.decode(data.prompt))
        stop = find_task(settings.data_loader).STOP
        completion = text[asked:].split(stop)[0] if stop else text[asked:]
        return f"sample: {text[max(0, asked - 200) : asked]}{completion}"

    def save() -> None:
        save_state(state, trainer, history, run)
        if settings.lora_rank:
            adapters.write(output, config, checkpoint, trainer.trained)
            save_vocabulary(tokenizer, output)
        else:
            save_model(model, output, tokenizer)
        draw_curve(output.with_suffix(".png"), history, output.stem)

    training, validation = data.batches(use_xla())
    with Monitor(steps, len(history.losses), home(output) / "logs") as monitor:
        monitor.say(f"{checkpoint.path}: {parameters:,} parameters, {precision}, {device}")
        if learning < parameters:
            monitor.say(f"{learning:,} parameters are trained")
        for line in data.about:
            monitor.say(line)
        if settings.resume:
            monitor.say(f"{state}: going on after step {len(history.losses)}" if resumed else f"{state}: no save yet")
        with eagerly() if settings.eager else contextlib.nullcontext():
            finished = train(trainer, settings.schedule(), training, validation, plan, history, monitor, save, sample)
        monitor.say(f"{output}: saved{'' if finished else f' after step {len(history.losses)}; go on with --resume'}")
        monitor.say(f"{output.with_suffix('.png')}: the loss curve")
    return output
