"""`finetune`: text → task → tokens → batches → model → loss → checkpoint."""

import dataclasses
import math
from pathlib import Path

from gpt_tf2.backend import has_fast_bfloat16, start, use_xla
from gpt_tf2.checkpoints import check_format, find_config, find_tokenizer, home, open_checkpoint, read_model, save_model
from gpt_tf2.commands.data import Data, read_data
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.files import check_writable
from gpt_tf2.flags import flag
from gpt_tf2.tasks import find_task


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """The flags of `finetune.py`, under their own names."""

    dataset_path: str = flag(dataclasses.MISSING, "the data: a file, a folder or a glob", short="data")
    model: str = flag("124M", "the model to start from: a folder of models/")
    model_ckpt: str | None = flag(None, "its checkpoint: a TF1 prefix or folder, .h5 or .safetensors (models/MODEL)")
    json_hparams: str | None = flag(None, "its hyper-parameters (those in or beside the checkpoint, or MODEL's)")
    json_encoder: str | None = flag(None, "its token table (the encoder.json beside the checkpoint, or MODEL's)")
    vocab_bpe: str | None = flag(None, "its merges (the vocab.bpe beside the checkpoint, or MODEL's)")
    data_loader: str = flag("text", "what the data is: text, cnndm, coqa, or a task of your own, FILE.py")
    loss_on: str | None = flag(
        None, "what is learned of an example (completion, but all of a text)", choices=("all", "completion")
    )
    cache: str | None = flag(None, "folder for prepared tokens (.gpt_tf2 beside the data)")
    num_epoch: int = flag(4, "epochs to train", kind=int)
    steps_per_epoch: int = flag(100, "optimizer steps an epoch", kind=int)
    batch_size: int = flag(1, "rows a step, each of --length tokens or of several examples", kind=int)
    length: int = flag(1024, "tokens a row, at most the model's n_ctx", kind=int)
    base_lr: float = flag(0.001, "Adam's learning rate", kind=float)
    decay_lr: float = flag(0.1, "what the learning rate is multiplied by at each of --decay_epochs", kind=float)
    decay_epochs: str = flag("1000,10000", "epochs, counted from 0, at whose start the learning rate decays")
    dropout: float = flag(0.0, "share dropped after embeddings, in attention and after projections", kind=float)
    precision: str = flag(
        "auto",
        "what is computed in; weights stay float32 (auto: bfloat16 where the device has instructions for it)",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    val_fraction: float = flag(0.0, "share of the data, at its end, kept for validation once an epoch", kind=float)
    seed: int = flag(0, "of the pieces drawn and of dropout", kind=int)
    sample_every: int = flag(500, "steps between samples printed; 0 prints none", kind=int)
    save_every: int = flag(1000, "steps between saves; 0 saves at the end alone", kind=int)
    resume: bool = flag(False, "go on from the last save of --output_name", kind=bool)
    output_name: str | None = flag(None, "file written to output/: NAME.h5, .safetensors or .ckpt (DATA_MODEL.h5)")
    eager: bool = flag(False, "run without a compiled graph: slow, for debugging", kind=bool)

    def __post_init__(self) -> None:
        """Raises InputError if a value is out of range."""
        for name in ("num_epoch", "steps_per_epoch", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: give at least 1")
        for name in ("seed", "sample_every", "save_every"):
            if not 0 <= getattr(self, name) < 2**32:
                raise InputError(f"--{name} {getattr(self, name)}: give 0 or more, less than 2**32")
        for name in ("base_lr", "decay_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"--{name} {getattr(self, name)}: give a number above 0")
        for name in ("dropout", "val_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: give 0 or more, less than 1")
        if self.length < 2:
            raise InputError(f"--length {self.length}: give at least 2, a token and its next")
        if self.precision not in ("auto", "float32", "bfloat16", "float16"):
            raise InputError(f"--precision {self.precision}: give auto, float32, bfloat16 or float16")
        if self.loss_on not in (None, "all", "completion"):
            raise InputError(f"--loss_on {self.loss_on}: give all or completion")
        if self.data_loader == "text" and self.loss_on == "completion":
            raise InputError("--loss_on completion: a text has no prompts and is learned whole: leave it out")
        find_task(self.data_loader)
        self.decay_steps()

    def completion_only(self) -> bool:
        """Whether prompts are left out of the loss."""
        return self.data_loader != "text" and self.loss_on != "all"

    def decay_steps(self) -> list[int]:
        """The steps, counted from 0, from which on the learning rate is decayed once more."""
        try:
            epochs = [int(epoch) for epoch in self.decay_epochs.split(",") if epoch.strip()]
        except ValueError:
            raise InputError(f"--decay_epochs {self.decay_epochs}: give numbers with commas, as 10,20") from None
        if any(epoch < 1 for epoch in epochs) or sorted(set(epochs)) != epochs:
            raise InputError(f"--decay_epochs {self.decay_epochs}: give rising epochs from 1 on, as 10,20")
        return [epoch * self.steps_per_epoch for epoch in epochs]

    def output(self) -> Path:
        """The file that is written; of a TF1 checkpoint, its prefix."""
        data = Path(self.dataset_path)
        path = Path("output") / (self.output_name or f"{data.stem if data.exists() else 'data'}_{self.model}.h5")
        check_format(path)
        return path if path.suffix else path / "model.ckpt"


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
    size = 4 * sum(math.prod(shape) for shape in tensor_shapes(config).values())
    # Weights and Adam's two means in the state, weights in the model.
    check_writable(home(output), 4 * size, "choose another --output_name, or mend the permissions")

    device = start()
    import keras

    from gpt_tf2.commands.generate import sampled_text
    from gpt_tf2.generation.decoder import Decoder
    from gpt_tf2.generation.sampling import make_sampler
    from gpt_tf2.training.adam import Adam
    from gpt_tf2.training.curve import draw_curve
    from gpt_tf2.training.loop import Plan, train, trainer_of
    from gpt_tf2.training.monitor import Monitor
    from gpt_tf2.training.schedule import step_decay
    from gpt_tf2.training.state import History, load_state, save_state

    precision = settings.precision
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16() else "float32"
    model = read_model(checkpoint, config, settings.dropout, precision)
    schedule = step_decay(settings.base_lr, settings.decay_lr, settings.decay_steps())
    optimizer = Adam(schedule, epsilon=1e-8)
    if precision == "float16":  # small gradients would be 0 in it
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    trainer = trainer_of(model, optimizer, settings.eager)
    state = home(output) / "state.h5"
    run = run_identity(settings, config, data, precision)
    resumed = settings.resume and state.is_file()
    history = load_state(state, model, optimizer, run) if resumed else History()

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
        save_state(state, model, optimizer, history, run)
        save_model(model, output, tokenizer)
        draw_curve(output.with_suffix(".png"), history, output.stem)

    training, validation = data.batches(use_xla())
    with Monitor(steps, len(history.losses), home(output) / "logs") as monitor:
        monitor.say(f"{checkpoint.path}: {size // 4:,} parameters, {precision}, {device}")
        for line in data.about:
            monitor.say(line)
        if settings.resume:
            monitor.say(f"{state}: going on after step {len(history.losses)}" if resumed else f"{state}: no save yet")
        finished = train(trainer, training, validation, plan, history, monitor, save, sample)
        monitor.say(f"{output}: saved{'' if finished else f' after step {len(history.losses)}; go on with --resume'}")
        monitor.say(f"{output.with_suffix('.png')}: the loss curve")
    return output


def run_identity(settings: FinetuneSettings, config: GPT2Config, data: Data, precision: str) -> dict:
    """What the weights after a step depend on, by flag."""
    names = ("seed", "batch_size", "length", "steps_per_epoch", "base_lr", "decay_lr", "decay_epochs", "dropout")
    flags = {f"--{name}": getattr(settings, name) for name in (*names, "val_fraction", "data_loader")}
    flags["--precision"] = precision
    flags["--loss_on"] = "completion" if settings.completion_only() else "all"
    return flags | {"the model": dataclasses.asdict(config), "the text of --dataset_path": data.key}
