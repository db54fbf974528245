"""The flags of `finetune`."""

import dataclasses
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_tf2.checkpoints import HDF5_SUFFIXES, check_format
from gpt_tf2.commands.flags import flag
from gpt_tf2.config import MATRICES, GPT2Config, adapter_shapes, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.tasks import find_task
from gpt_tf2.training.memory import STATE_PER_WEIGHT, MemoryPlan, parse_memory

if TYPE_CHECKING:
    from gpt_tf2.training.schedule import Schedule

SCHEDULES = ("step", "cosine")
OPTIMIZERS = tuple(STATE_PER_WEIGHT)


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
    base_lr: float = flag(0.001, "the learning rate", kind=float)
    lr_schedule: str = flag(
        "step", "how it goes on: step, falling at --decay_epochs, or cosine, falling all the way", choices=SCHEDULES
    )
    decay_lr: float = flag(0.1, "what it is multiplied by at each of --decay_epochs, or along the cosine", kind=float)
    decay_epochs: str = flag("1000,10000", "epochs, counted from 0, at whose start the learning rate decays")
    warmup_steps: int = flag(0, "steps over which the learning rate rises from nearly 0", kind=int)
    optimizer: str = flag("adamw", "what turns gradients into steps; adafactor needs least memory", choices=OPTIMIZERS)
    weight_decay: float = flag(0.0, "share of each matrix that a step takes off, times the learning rate", kind=float)
    clip_norm: float = flag(0.0, "the most that the norm of all gradients may be; 0 is any", kind=float)
    accumulate: int = flag(1, "parts that a batch goes through in, for less memory and the same result", kind=int)
    remat: str = flag(
        "auto",
        "on: the way back computes each block anew: far less memory, a third more time (auto: where needed)",
        choices=("auto", "on", "off"),
    )
    memory: str | None = flag(
        None, "what may be taken, as 11GB, or auto, all there is: chooses --remat, --optimizer and LoRA to fit"
    )
    lora_rank: int = flag(
        0, "train low-rank adapters of this rank alone, 8 for instance; 0 trains the weights", kind=int
    )
    lora_on: str = flag(",".join(MATRICES), "the matrices of each block that get adapters")
    devices: int | None = flag(
        None,
        "devices that the rows of a batch are spread over, with KERAS_BACKEND=jax (1, or all of several processes)",
        kind=int,
    )
    freeze: str = flag("", "what is not trained, with commas: wte, wpe, h0-5 (blocks), attn, mlp, ln_1, ln_2, ln_f")
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
        for name in ("num_epoch", "steps_per_epoch", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: give at least 1")
        for name in ("seed", "sample_every", "save_every", "warmup_steps", "lora_rank"):
            if not 0 <= getattr(self, name) < 2**32:
                raise InputError(f"--{name} {getattr(self, name)}: give 0 or more, less than 2**32")
        for name in ("base_lr", "decay_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"--{name} {getattr(self, name)}: give a number above 0")
        for name in ("weight_decay", "clip_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"--{name} {getattr(self, name)}: give 0 or more")
        for name in ("dropout", "val_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: give 0 or more, less than 1")
        if self.length < 2:
            raise InputError(f"--length {self.length}: give at least 2, a token and its next")
        for field in dataclasses.fields(self):
            choices, value = field.metadata["choices"], getattr(self, field.name)
            if choices and value is not None and value not in choices:
                raise InputError(f"--{field.name} {value}: give {', '.join(choices[:-1])} or {choices[-1]}")
        if self.devices is not None and self.devices < 1:
            raise InputError(f"--devices {self.devices}: give at least 1")
        if self.accumulate > self.batch_size:
            raise InputError(f"--accumulate {self.accumulate}: only {self.batch_size} rows a step: raise --batch_size")
        if self.lora_rank and self.freeze:
            raise InputError("--freeze: with --lora_rank the weights are frozen all: leave one of the two out")
        if self.data_loader == "text" and self.loss_on == "completion":
            raise InputError("--loss_on completion: a text has no prompts and is learned whole: leave it out")
        find_task(self.data_loader)
        self.decay_steps()
        self.given_memory()

    def given_memory(self) -> float | None:
        """The bytes of --memory; None where all there is may be taken."""
        return None if self.memory in (None, "auto") else parse_memory(self.memory)

    def lora_matrices(self) -> tuple[str, ...]:
        """The matrices of a block that get adapters."""
        names = tuple(self.lora_on.split(","))
        for name in names:
            if name not in MATRICES:
                raise InputError(f"--lora_on {name}: give some of {','.join(MATRICES)}")
        return names

    def trained(self, config: GPT2Config) -> dict[str, tuple[int, ...]]:
        """The names and shapes of what is trained. Raises InputError if --freeze names nothing, or all."""
        shapes = tensor_shapes(config)
        if self.lora_rank:
            return adapter_shapes(config, self.lora_rank, self.lora_matrices())
        frozen: set[str] = set()
        for part in filter(None, self.freeze.split(",")):
            found = {name for name in shapes if named(name, part)}
            if not found:
                raise InputError(f"--freeze {part}: no such part: give some of wte, wpe, h0-5, attn, mlp, ln_1, ln_f")
            frozen |= found
        if len(frozen) == len(shapes):
            raise InputError(f"--freeze {self.freeze}: nothing is left to train: name less")
        return {name: shape for name, shape in shapes.items() if name not in frozen}

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

    def schedule(self) -> "Schedule":
        """The learning rate of each step."""
        from gpt_tf2.training.schedule import cosine_decay, step_decay, with_warmup

        if self.lr_schedule == "cosine":
            found = cosine_decay(self.base_lr, self.decay_lr, self.num_epoch * self.steps_per_epoch)
        else:
            found = step_decay(self.base_lr, self.decay_lr, self.decay_steps())
        return with_warmup(found, self.warmup_steps)

    def memory_plan(self, precision: str) -> MemoryPlan:
        """How the model is trained, as asked, without remat where it is to be decided."""
        return MemoryPlan(
            optimizer=self.optimizer,
            remat=self.remat == "on",
            lora_rank=self.lora_rank,
            precision=precision,
            sequences=-(-self.batch_size // self.accumulate),
            length=self.length,
            collects=self.accumulate > 1 or self.clip_norm > 0 or precision == "float16",
        )

    def output(self) -> Path:
        """The file that is written; of a TF1 checkpoint, its prefix."""
        data = Path(self.dataset_path)
        path = Path("output") / (self.output_name or f"{data.stem if data.exists() else 'data'}_{self.model}.h5")
        check_format(path)
        if self.lora_rank and path.suffix not in HDF5_SUFFIXES:
            raise InputError(f"--output_name {path.name}: adapters are written as .h5: end it so")
        return path if path.suffix else path / "model.ckpt"


def named(name: str, part: str) -> bool:
    """Whether a part, as `attn` or the blocks `h0-5`, holds the tensor of OpenAI's name."""
    blocks = re.fullmatch(r"h(\d+)-(\d+)", part)
    if blocks:
        first, last = map(int, blocks.groups())
        return any(name.startswith(f"h{i}/") for i in range(first, last + 1))
    return part in name.split("/")


def run_identity(settings: FinetuneSettings, config: GPT2Config, data_key: str) -> dict:
    """What the weights after a step depend on, by flag."""
    names = ["seed", "batch_size", "length", "steps_per_epoch", "base_lr", "decay_lr", "decay_epochs", "dropout"]
    names += ["lr_schedule", "warmup_steps", "optimizer", "weight_decay", "clip_norm", "accumulate", "remat"]
    names += ["precision", "lora_rank", "lora_on", "freeze"]
    flags = {f"--{name}": getattr(settings, name) for name in (*names, "val_fraction", "data_loader")}
    if settings.lr_schedule == "cosine":
        flags["--num_epoch"] = settings.num_epoch
    flags["--loss_on"] = "completion" if settings.completion_only() else "all"
    return flags | {"the model": dataclasses.asdict(config), "the text of --dataset_path": data_key}
