"""The settings of `finetune`."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_tf2.commands.data_settings import CHAT_TEMPLATE, COLUMN, DATA, ENCODING, HIGHLIGHTS, LITERAL_SPECIALS, TASK
from gpt_tf2.commands.flags import check_ranges, flag, flags_of, join_items
from gpt_tf2.commands.model_settings import BASE, MODEL, OF_MODEL, OFFLINE
from gpt_tf2.config import MATRICES, GPT2Config, adapter_shapes, output_matrix, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.training.memory import STATE_PER_WEIGHT, MemoryPlan, parse_memory

if TYPE_CHECKING:
    from gpt_tf2.tasks.chat_template import ChatTemplate
    from gpt_tf2.training.schedule import Schedule

SHAPE = ("n_layer", "n_embd", "n_head")  # of a network from scratch
OF_SHAPE = (*SHAPE, "n_ctx")
INIT_STD = 0.02  # of GPT-2
BETA = 0.1  # of DPO (Rafailov et al. 2023, appendix B)
OF_PREFERENCES = ("text", "jsonl", "preferences")  # all mean the last with DPO; the first is the default of `task`
OPTIMIZERS = tuple(STATE_PER_WEIGHT)
LENGTH = 1024  # of a sequence by default: GPT-2's context
COUNT: dict[str, Any] = {"kind": int, "at_least": 1}
NATURAL: dict[str, Any] = {"kind": int, "at_least": 0, "below": 2**32}
FRACTION: dict[str, Any] = {"kind": float, "at_least": 0, "below": 1}
POSITIVE: dict[str, Any] = {"kind": float, "above": 0}
NOT_NEGATIVE: dict[str, Any] = {"kind": float, "at_least": 0}
OF_NETWORK: dict[str, Any] = {"group": "model", **COUNT}
TRAINING: dict[str, Any] = {"group": "training"}
SHARED: dict[str, Any] = {"group": "training", "shared": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """The settings of `finetune.py`, named like its flags.

    Raises InputError for a value that is out of range, or that contradicts another.

    Example:
        >>> FinetuneSettings(data="book.txt", lr=1e-4).model
        '124M'
    """

    data: str = flag(dataclasses.MISSING, **DATA)
    task: str = flag("text", **TASK, shared=True)
    val_fraction: float = flag(
        0.0,
        "fraction held out at the end of the data, for validation: the model has the best weights by its loss",
        group="data",
        shared=True,
        **FRACTION,
    )
    val_split: str | None = flag(
        None, "split to validate on instead: val of jsonl and cnndm, dev of coqa", group="data", shared=True
    )
    loss_on: str | None = flag(
        None,
        "tokens that the loss covers (completion; all for text)",
        group="data",
        choices=("all", "completion"),
        shared=True,
    )
    too_long: str = flag(
        "shorten",
        "examples that do not fit into --length: shorten their passage at its end, or skip them (dpo skips)",
        group="data",
        choices=("shorten", "skip"),
        shared=True,
    )
    encoding: str | None = flag(None, **ENCODING)
    column: str | None = flag(None, **COLUMN)
    literal_specials: bool = flag(False, **LITERAL_SPECIALS)
    highlights: str = flag("one", **HIGHLIGHTS, shared=True)
    chat_template: str | None = flag(None, **CHAT_TEMPLATE)
    cache: str | None = flag(
        None, "folder for prepared tokens (.gpt_tf2 beside the data)", group="data", metavar="FOLDER"
    )
    model: str = flag("124M", MODEL, group="model", metavar="MODEL")
    model_ckpt: str | None = flag(
        None, "its checkpoint: a TF1 prefix or folder, .h5 or .safetensors (from --model)", **OF_MODEL
    )
    base: str | None = flag(None, **BASE, metavar="MODEL")
    json_hparams: str | None = flag(
        None, "its hyper-parameters (from the checkpoint, its folder or --model)", **OF_MODEL
    )
    json_encoder: str | None = flag(None, "its token table (encoder.json or tokenizer.json beside it)", **OF_MODEL)
    vocab_bpe: str | None = flag(None, "its merges (vocab.bpe beside the checkpoint)", **OF_MODEL)
    offline: bool = flag(False, **OFFLINE)
    add_tokens: tuple[str, ...] | None = flag(
        None,
        "texts that become tokens of the vocabulary, such as '<user>,<bot>'; their embeddings begin at the mean",
        group="model",
        metavar="TOKENS",
        many=True,
        shared=True,
    )
    from_scratch: bool = flag(
        False, "train a random network on the vocabulary of --model (gpt-tf2 vocabulary)", group="model", kind=bool
    )
    n_layer: int | None = flag(None, "its blocks, with --from_scratch (those of a released --model)", **OF_NETWORK)
    n_embd: int | None = flag(None, "its width (that of a released --model)", **OF_NETWORK)
    n_head: int | None = flag(None, "its attention heads per block (those of a released --model)", **OF_NETWORK)
    n_ctx: int | None = flag(None, "its longest sequence, in tokens (--length)", **OF_NETWORK)
    init_std: float = flag(
        INIT_STD,
        "standard deviation of its random matrices; a network narrower than 768 learns faster from a larger one",
        group="model",
        **POSITIVE,
    )
    objective: str = flag(
        "likelihood",
        "what is learned: likelihood (the next token) or dpo (the preferred of two completions, --task preferences)",
        **SHARED,
        choices=("likelihood", "dpo"),
    )
    dpo_beta: float | None = flag(
        None,
        "DPO's beta: the larger, the closer the model stays to the one it began with (0.1)",
        **SHARED,
        **POSITIVE,
    )
    epochs: int = flag(4, "epochs to train", also=("num_epoch",), **TRAINING, **COUNT)
    steps: int = flag(100, "optimizer steps per epoch", also=("steps_per_epoch",), **SHARED, **COUNT)
    batch_size: int = flag(1, "sequences per step, each a window of text or packed examples", **SHARED, **COUNT)
    length: int | None = flag(
        None, "tokens per sequence (1024, or the model's n_ctx if that is less)", **SHARED, kind=int, at_least=2
    )
    lr: float | None = flag(
        None,
        "peak learning rate (by size: 1e-4 for 124M to 2e-5 for 1558M; 2e-4 for LoRA; higher from scratch)",
        also=("base_lr",),
        **SHARED,
        **POSITIVE,
    )
    lr_schedule: str = flag(
        "step",
        "learning-rate schedule: step (decays at --decay_epochs) or cosine (over the whole run)",
        **SHARED,
        choices=("step", "cosine"),
    )
    warmup_steps: int = flag(0, "steps of linear learning-rate warm-up", **SHARED, **NATURAL)
    decay_lr: float = flag(
        0.1, "learning-rate factor at each of --decay_epochs, or at the end of the cosine", **SHARED, **POSITIVE
    )
    decay_epochs: tuple[int, ...] = flag(
        (1000, 10000), "epochs, from 0, at whose start the learning rate decays", **SHARED, kind=int, many=True
    )
    optimizer: str = flag("adamw", "optimizer; adafactor needs the least memory", **SHARED, choices=OPTIMIZERS)
    weight_decay: float = flag(0.0, "decoupled weight decay, applied to matrices only", **SHARED, **NOT_NEGATIVE)
    clip_norm: float = flag(0.0, "clip gradients to this global norm (0: no clipping)", **SHARED, **NOT_NEGATIVE)
    dropout: float = flag(
        0.0, "dropout rate after the embeddings, in the attention and after projections", **SHARED, **FRACTION
    )
    freeze: tuple[str, ...] = flag(
        (),
        "parts to keep frozen: wte, wpe, h0-5 (blocks), attn, mlp, ln_1, ln_2, ln_f",
        **SHARED,
        metavar="PART",
        many=True,
    )
    seed: int = flag(0, "seed of the batches and of dropout", **SHARED, **NATURAL)
    validate_every: int | None = flag(None, "steps between validations (once an epoch)", **TRAINING, **COUNT)
    patience: int = flag(
        0, "stop after this many validations in a row without a lower loss (0: never)", **TRAINING, **NATURAL
    )
    memory: str | None = flag(
        None,
        "memory limit, such as 11GB, or auto for all that is free: "
        "chooses --remat, --optimizer and LoRA, also on an int8 base, to fit",
        group="memory",
        metavar="SIZE",
    )
    lora_rank: int = flag(
        0,
        "train LoRA adapters of this rank, such as 8, beside frozen weights (0: no adapters)",
        group="memory",
        shared=True,
        **NATURAL,
    )
    lora_alpha: float | None = flag(
        None,
        "scale of the adapters: their product is multiplied by alpha / rank (the rank)",
        group="memory",
        shared=True,
        **POSITIVE,
    )
    lora_on: tuple[str, ...] = flag(
        MATRICES,
        "matrices of each block that get adapters",
        group="memory",
        metavar="MATRIX",
        many=True,
        shared=True,
    )
    base_precision: str | None = flag(
        None,
        "hold the frozen matrices of LoRA in int8, half the memory of bfloat16 (as --precision)",
        group="memory",
        choices=("int8",),
        shared=True,
    )
    precision: str = flag(
        "auto",
        "precision of the computation; weights stay float32 (auto: bfloat16 where the device supports it)",
        group="memory",
        choices=("auto", "float32", "bfloat16", "float16"),
        shared=True,
    )
    remat: str = flag(
        "auto",
        "activation checkpointing: far less memory, about a third slower (auto: where memory is short)",
        group="memory",
        choices=("auto", "on", "off"),
        shared=True,
    )
    accumulate: int = flag(
        1,
        "micro-batches per step: less memory, same result, somewhat slower",
        group="memory",
        shared=True,
        **COUNT,
    )
    devices: int | None = flag(
        None,
        "devices to split each batch over, with KERAS_BACKEND=jax (1, or all of several processes)",
        group="memory",
        **COUNT,
    )
    shard: bool = flag(
        False,
        "split weights and optimizer state over --devices (all): each holds its share",
        group="memory",
        kind=bool,
    )
    output: str | None = flag(
        None,
        "the model to write, NAME.h5, .safetensors or .ckpt, or for LoRA peft's folder NAME; "
        "in output/ unless it names a folder (DATA_MODEL.h5)",
        group="output",
        metavar="FILE",
    )
    output_name: str | None = flag(
        None, "the same, as a name in output/", group="output", metavar="FILE", replaces="output"
    )
    resume: bool = flag(False, "continue from the last save of --output", group="output", kind=bool)
    save_every: int = flag(1000, "steps between saves (0: only at the end)", group="output", **NATURAL)
    sample_every: int = flag(500, "steps between printed samples (0: none)", group="output", **NATURAL)
    log_to: tuple[str, ...] = flag(
        ("tensorboard",),
        "where losses and samples are logged: tensorboard, wandb, mlflow, trackio, or none",
        group="output",
        metavar="LOGGER",
        many=True,
    )
    eager: bool = flag(False, "run without compiled graphs: slow, for debugging", group="output", kind=bool)

    def __post_init__(self) -> None:
        from gpt_tf2.training.loggers.opening import LOGGERS

        check_ranges(self)
        if self.accumulate > self.batch_size:
            message = f"the batch has only {self.batch_size} sequences: raise `batch_size`"
            raise InputError(message, "accumulate", self.accumulate)
        if self.lora_rank and self.freeze:
            message = "cannot be combined with `lora_rank`, which already freezes all weights: drop one"
            raise InputError(message, "freeze", join_items(self.freeze))
        if self.lora_alpha and not self.lora_rank:
            raise InputError("scales LoRA adapters: give `lora_rank` as well", "lora_alpha", self.lora_alpha)
        if self.base_precision and not self.lora_rank:
            message = "holds weights that are not trained: give `lora_rank` as well"
            raise InputError(message, "base_precision", self.base_precision)
        if self.output and self.output_name:
            raise InputError(
                "names the model to write, and so does `output`: drop one", "output_name", self.output_name
            )
        if self.val_split and self.val_fraction:
            raise InputError(
                "is validated on, so nothing is held out: drop `val_fraction`", "val_split", self.val_split
            )
        if self.log_to != ("none",) and {*self.log_to} - {*LOGGERS}:
            raise InputError(f"use some of {', '.join(LOGGERS)}, or none alone", "log_to", join_items(self.log_to))
        self.check_start()
        self.check_added_tokens()
        self.check_objective()
        self.decay_steps()
        self.memory_limit()

    def check_start(self) -> None:
        """Raises InputError for settings of a random network without one, or of a saved model with one."""
        if self.from_scratch:
            for name in ("lora_rank", "model_ckpt", "json_hparams"):
                if getattr(self, name):
                    message = "belongs to a model with weights of its own: drop it, or `from_scratch`"
                    raise InputError(message, name, getattr(self, name))
            return
        for name in (*OF_SHAPE, "init_std"):
            if getattr(self, name) not in (None, INIT_STD):
                raise InputError("is of a random network: drop it, or give `from_scratch`", name, getattr(self, name))

    @property
    def validates(self) -> bool:
        """Whether there is data to validate on."""
        return bool(self.val_fraction or self.val_split)

    def check_added_tokens(self) -> None:
        """Raises InputError for tokens that no text could hold, or whose embeddings would not be trained."""
        from gpt_tf2.commands.recipes import is_utf8

        if self.add_tokens is None:
            return
        for token in self.add_tokens or ("",):
            if not token.strip() or token.splitlines() != [token] or not is_utf8(token):
                message = "cannot be a token: use texts of one line that are more than white space, such as <user>"
                raise InputError(message, "add_tokens", repr(token))
        if self.lora_rank:
            message = "would stay untrained, as LoRA freezes the embedding: drop `lora_rank` to train all weights"
            raise InputError(message, "add_tokens", join_items(self.add_tokens))

    def check_objective(self) -> None:
        """Raises InputError for settings that do not go with the objective."""
        if self.objective == "likelihood":
            if self.dpo_beta:
                raise InputError("belongs to `objective` dpo: give that as well", "dpo_beta", self.dpo_beta)
            if self.task == "preferences":
                raise InputError("has a completion that is not to be learned: give `objective` dpo", "task", self.task)
        elif self.task not in OF_PREFERENCES:
            raise InputError("holds no preferences: use preferences for `objective` dpo", "task", self.task)
        elif self.loss_on == "all":
            raise InputError("is of a likelihood: `objective` dpo compares completions: drop it", "loss_on", "all")

    def beta(self) -> float | None:
        """DPO's β; None for another objective."""
        return (self.dpo_beta or BETA) if self.objective == "dpo" else None

    def loggers(self) -> list[str]:
        """The loggers of `log_to`, each once."""
        return [name for name in dict.fromkeys(self.log_to) if name != "none"]

    def memory_limit(self) -> float | None:
        """The bytes of `memory`; None if all that is free may be used."""
        return None if self.memory in (None, "auto") else parse_memory(self.memory)

    def decay_steps(self) -> list[int]:
        """The steps, from 0, at which the learning rate decays."""
        if any(epoch < 1 for epoch in self.decay_epochs) or sorted({*self.decay_epochs}) != [*self.decay_epochs]:
            raise InputError(
                "use rising epochs from 1 on, such as 10,20", "decay_epochs", join_items(self.decay_epochs)
            )
        return [epoch * self.steps for epoch in self.decay_epochs]

    def schedule(self) -> "Schedule":
        """The learning rate of each step. `lr` is no longer None."""
        from gpt_tf2.training.schedule import cosine_decay, step_decay, with_warmup

        assert self.lr is not None
        if self.lr_schedule == "cosine":
            schedule = cosine_decay(self.lr, self.decay_lr, self.epochs * self.steps)
        else:
            schedule = step_decay(self.lr, self.decay_lr, self.decay_steps())
        return with_warmup(schedule, self.warmup_steps)

    def memory_plan(self, precision: str) -> MemoryPlan:
        """The settings that memory depends on."""
        return MemoryPlan(
            optimizer=self.optimizer,
            remat=self.remat == "on",
            lora_rank=self.lora_rank,
            precision=precision,
            sequences=-(-self.batch_size // self.accumulate) * (2 if self.objective == "dpo" else 1),
            length=self.length or LENGTH,
            collects=self.accumulate > 1 or self.clip_norm > 0 or precision == "float16",
            freezes=bool(self.freeze or self.add_tokens),
            int8=self.base_precision == "int8",
        )

    def with_plan(self, plan: MemoryPlan) -> "FinetuneSettings":
        """These settings with those of a plan."""
        return dataclasses.replace(
            self,
            precision=plan.precision,
            remat="on" if plan.remat else "off",
            optimizer=plan.optimizer,
            lora_rank=plan.lora_rank,
            base_precision="int8" if plan.int8 else None,
        )

    def held(self) -> str:
        """The dtype of the model's matrices: those neither trained nor saved need no more than the computation."""
        return self.precision if self.lora_rank else "float32"

    def output_setting(self) -> str:
        """The setting that names the output."""
        return "output_name" if self.output_name else "output"

    def output_path(self) -> Path:
        """The file to write; for a TF1 checkpoint its prefix."""
        from gpt_tf2.checkpoints import peft
        from gpt_tf2.checkpoints.formats import HDF5_SUFFIXES, check_format
        from gpt_tf2.commands.find_model import name_model

        data = Path(self.data)
        made_from = f"{(data.resolve().stem if data.exists() else '') or 'data'}_{name_model(self.model)}.h5"
        name = self.output or self.output_name or made_from
        is_name = not self.output or Path(self.output).name == self.output
        path = Path("output") / name if is_name else Path(name)
        check_format(path)
        if self.lora_rank and not path.suffix:
            return path / peft.FILE
        if self.lora_rank and path.suffix not in HDF5_SUFFIXES and path.name != peft.FILE:
            message = "adapters are written as NAME.h5, or for peft as a folder: end the name in .h5, or in nothing"
            raise InputError(message, self.output_setting(), path.name)
        return path if path.suffix else path / "model.ckpt"


def list_trained(settings: FinetuneSettings, config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The tensors to train, name to shape. Raises InputError if `freeze` or `lora_on` names an unknown part."""
    shapes = tensor_shapes(config)
    if settings.lora_rank:
        if not settings.lora_on:
            raise InputError(f"use some of {','.join(MATRICES)}", "lora_on", "''")
        for name in settings.lora_on:
            if name not in MATRICES:
                raise InputError(f"use some of {','.join(MATRICES)}", "lora_on", name)
        return adapter_shapes(config, settings.lora_rank, settings.lora_on)
    frozen: set[str] = set()
    for part in settings.freeze:
        names = {name for name in shapes if is_in_part(name, part)}
        if not names:
            head = "" if config.tied else ", lm_head"
            message = f"no such part: use some of wte, wpe, h0-5, attn, mlp, ln_1, ln_2, ln_f{head}"
            raise InputError(message, "freeze", part)
        frozen |= names
    if settings.add_tokens and frozen & {"wte", output_matrix(config)}:
        message = "would stay untrained, as the embedding is frozen: freeze less"
        raise InputError(message, "add_tokens", join_items(settings.add_tokens))
    if len(frozen) == len(shapes):
        raise InputError("nothing is left to train: freeze less", "freeze", join_items(settings.freeze))
    return {name: shape for name, shape in shapes.items() if name not in frozen}


def is_in_part(name: str, part: str) -> bool:
    """Whether the tensor of OpenAI's name is in a part of the network, such as `attn` or the blocks `h0-5`."""
    blocks = re.fullmatch(r"h(\d+)-(\d+)", part)
    if blocks:
        first, last = map(int, blocks.groups())
        return any(name.startswith(f"h{i}/") for i in range(first, last + 1))
    return part in name.split("/")


def identify_run(
    settings: FinetuneSettings,
    config: GPT2Config,
    vocabulary: str,
    template: "ChatTemplate | None",
    data_key: str,
    is_shortened: bool,
) -> dict[str, Any]:
    """What the weights after a step depend on, but for the first weights; a resumed run must have the same.

    The names are those of the state files: a setting is called by its flag of 2019, if it had one.

    Args:
        settings: without "auto".
        vocabulary: see `Tokenizer.digest`.
        template: of the chats in the training data, if there are any.
        data_key: identifies the training data.
        is_shortened: whether examples are shortened that would be skipped otherwise.
    """
    from gpt_tf2.tasks.chat_template import format_template
    from gpt_tf2.training.state import TEMPLATE, VOCABULARY

    shared = {
        f"--{[*declared.also, name][0]}": join_items(getattr(settings, name))
        for name, declared in flags_of(settings).items()
        if declared.shared
    }
    shared["--lora_alpha"] = settings.lora_alpha or settings.lora_rank
    shared["--dpo_beta"] = settings.beta()
    if settings.lr_schedule == "cosine":
        shared["--num_epoch"] = settings.epochs  # the cosine ends with the run
    if not is_shortened:
        shared["--too_long"] = "skip"  # there is nothing to shorten: the same batches
    described = {
        "the model": config.to_dict(),
        VOCABULARY: vocabulary,
        TEMPLATE: format_template(template) if template else None,
    }
    return shared | described | {"the text of --dataset_path": data_key}
