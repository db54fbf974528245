"""The settings of `plan`."""

import dataclasses

from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.commands.model_settings import MODEL
from gpt_tf2.training.memory import parse_memory


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """The settings of `plan`."""

    model: str = flag("124M", f"{MODEL}; nothing is downloaded", metavar="MODEL")
    memory: str | None = flag(None, "memory limit, such as 11GB: marks what fits", metavar="SIZE")
    batch_size: int = flag(1, "sequences per step", kind=int, at_least=1)
    length: int | None = flag(None, "tokens per sequence (1024, or the model's n_ctx)", kind=int, at_least=2)
    precision: str = flag("bfloat16", "precision of the computation", choices=("float32", "bfloat16", "float16"))

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.memory is not None:
            parse_memory(self.memory)
