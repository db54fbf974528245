"""`finetune`: text → task → tokens → batches → model → loss → checkpoint."""

import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np

from gpt_tf2.backend import start
from gpt_tf2.checkpoints import check_format, find_config, find_tokenizer, home, open_checkpoint, read_model, save_model
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.files import check_writable
from gpt_tf2.flags import flag
from gpt_tf2.tasks import text
from gpt_tf2.training.batches import Pieces, split

LOADERS = ("text",)


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """The flags of `finetune.py`, under their own names."""

    dataset_path: str = flag(dataclasses.MISSING, "the data: a file, a folder or a glob", short="data")
    model: str = flag("124M", "the model to start from: a folder of models/")
    model_ckpt: str | None = flag(None, "its checkpoint: a TF1 prefix or folder, .h5 or .safetensors (models/MODEL)")
    json_hparams: str | None = flag(None, "its hyper-parameters (those in or beside the checkpoint, or MODEL's)")
    json_encoder: str | None = flag(None, "its token table (the encoder.json beside the checkpoint, or MODEL's)")
    vocab_bpe: str | None = flag(None, "its merges (the vocab.bpe beside the checkpoint, or MODEL's)")
    data_loader: str = flag("text", "what the data is", choices=LOADERS)
    num_epoch: int = flag(4, "epochs to train", kind=int)
    steps_per_epoch: int = flag(100, "optimizer steps an epoch", kind=int)
    batch_size: int = flag(1, "training pieces a step", kind=int)
    length: int = flag(1024, "tokens a piece, at most the model's n_ctx", kind=int)
    base_lr: float = flag(0.001, "Adam's learning rate", kind=float)
    decay_lr: float = flag(0.1, "what the learning rate is multiplied by at each of --decay_epochs", kind=float)
    decay_epochs: str = flag("1000,10000", "epochs, counted from 0, at whose start the learning rate decays")
    dropout: float = flag(0.0, "share dropped after embeddings, in attention and after projections", kind=float)
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
        if self.data_loader not in LOADERS:
            raise InputError(f"--data_loader {self.data_loader}: unknown: give one of {', '.join(LOADERS)}")
        self.decay_steps()

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
    streams = text.read_streams(settings.dataset_path, tokenizer)
    training, validation = pieces(streams, settings)
    size = 4 * sum(math.prod(shape) for shape in tensor_shapes(config).values())
    # Weights and Adam's two means in the state, weights in the model.
    check_writable(home(output), 4 * size, "choose another --output_name, or mend the permissions")

    device = start()
    from gpt_tf2.commands.generate import sampled_text
    from gpt_tf2.generation.decoder import Decoder
    from gpt_tf2.generation.sampling import make_sampler
    from gpt_tf2.training.adam import Adam
    from gpt_tf2.training.curve import draw_curve
    from gpt_tf2.training.loop import Plan, compile_model, train
    from gpt_tf2.training.monitor import Monitor
    from gpt_tf2.training.schedule import step_decay
    from gpt_tf2.training.state import History, load_state, save_state

    model = read_model(checkpoint, config, settings.dropout)
    schedule = step_decay(settings.base_lr, settings.decay_lr, settings.decay_steps())
    optimizer = Adam(schedule, epsilon=1e-8)
    compile_model(model, optimizer, settings.eager)
    state = home(output) / "state.h5"
    run = run_identity(settings, config, streams)
    resumed = settings.resume and state.is_file()
    history = load_state(state, model, optimizer, run) if resumed else History()

    per_epoch = settings.steps_per_epoch
    steps = settings.num_epoch * per_epoch
    plan = Plan(steps, settings.batch_size, settings.seed, per_epoch, settings.sample_every, settings.save_every)
    decoder = Decoder(model)

    def sample() -> str:
        return "sample: " + sampled_text(decoder, tokenizer, [], 1, 100, make_sampler(top_k=40), settings.seed)[0]

    def save() -> None:
        save_state(state, model, optimizer, history, run)
        save_model(model, output, tokenizer)
        draw_curve(output.with_suffix(".png"), history, output.stem)

    tokens_per_step = settings.batch_size * settings.length
    with Monitor(steps, len(history.losses), tokens_per_step, home(output) / "logs") as monitor:
        monitor.show(f"{checkpoint.path}: {size // 4:,} parameters, {device}")
        monitor.show(f"{settings.dataset_path}: {sum(map(len, streams)):,} tokens")
        if settings.resume:
            monitor.show(f"{state}: going on after step {len(history.losses)}" if resumed else f"{state}: no save yet")
        finished = train(model, training, validation, plan, history, monitor, save, sample)
        monitor.show(f"{output}: saved{'' if finished else f' after step {len(history.losses)}; go on with --resume'}")
        monitor.show(f"{output.with_suffix('.png')}: the loss curve")
    return output


def pieces(streams: list[np.ndarray], settings: FinetuneSettings) -> tuple[Pieces, Pieces | None]:
    """The training pieces and the validation pieces, if any are asked for."""
    training, validation = (Pieces(part, settings.length) for part in split(streams, settings.val_fraction))
    check_length(training, "for training", "shorten --length or give more text", settings)
    if not settings.val_fraction:
        return training, None
    check_length(validation, "for validation", "raise --val_fraction or shorten --length", settings)
    return training, validation


def check_length(part: Pieces, use: str, mend: str, settings: FinetuneSettings) -> None:
    if not part.positions().any():
        longest = f"{max(map(len, part.streams))} tokens in a row {use}"
        where = f"--dataset_path {settings.dataset_path}"
        raise InputError(f"{where}: {longest}, fewer than --length {settings.length}: {mend}")


def run_identity(settings: FinetuneSettings, config: GPT2Config, streams: list[np.ndarray]) -> dict:
    """What the weights after a step depend on, by flag."""
    names = ("seed", "batch_size", "length", "steps_per_epoch", "base_lr", "decay_lr", "decay_epochs", "dropout")
    data = hashlib.sha256()
    for stream in streams:
        data.update(stream.tobytes())
    flags = {f"--{name}": getattr(settings, name) for name in (*names, "val_fraction")}
    return flags | {"the model": dataclasses.asdict(config), "the text of --dataset_path": data.hexdigest()}
