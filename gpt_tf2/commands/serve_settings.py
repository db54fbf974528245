"""The settings of `serve`."""

import dataclasses
from typing import Any

from gpt_tf2.commands.flags import flag, flags_of
from gpt_tf2.commands.model_settings import OFFLINE, ModelSettings
from gpt_tf2.commands.server_settings import ServerSettings
from gpt_tf2.errors import InputError

OF_MODELS = flags_of(ModelSettings)


def like_generate(name: str, default: Any) -> Any:
    """The flag that the commands which generate have."""
    return dataclasses.field(default=default, metadata={"flag": OF_MODELS[name]})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeSettings(ServerSettings):
    """The settings of `serve`.

    Raises InputError for a value that is out of range, or that contradicts another.
    """

    model: tuple[str, ...] = flag(
        ("124M",), f"{OF_MODELS['model'].help}; or several", also=("models",), group="model", metavar="MODEL", many=True
    )
    offline: bool = flag(False, **OFFLINE)
    queue: int = flag(
        64, "requests that may wait for each model", group="server", kind=int, at_least=0, at_most=100_000
    )
    max_body: float = flag(4.0, "largest body of a request, in MB", group="server", kind=float, above=0, at_most=1000)
    timeout: float = flag(300.0, "longest time for a request, in s", group="server", kind=float, above=0)
    drain: int = flag(
        30,
        "seconds that running requests have to finish when the server is stopped",
        group="server",
        kind=int,
        at_least=0,
    )
    log_prompts: str | None = flag(
        None, "file that gets each request's prompt and answer as a line of JSON", group="server", metavar="FILE"
    )
    batch_size: int = flag(
        8, "completions that each model generates in parallel", group="memory", kind=int, at_least=1, at_most=4096
    )
    memory: float | None = flag(
        None,
        "GB for all models together: those used least recently are unloaded (what is free)",
        group="memory",
        kind=float,
        above=0,
    )
    quantize: str | None = like_generate("quantize", None)
    engine: str = like_generate("engine", "auto")
    precision: str = like_generate("precision", "auto")
    draft: str = like_generate("draft", "auto")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise InputError("give a model", "model")

    def of_model(self, model: str) -> ModelSettings:
        """The settings that load a model."""
        return ModelSettings(
            model=model,
            offline=self.offline,
            quantize=self.quantize,
            engine=self.engine,
            precision=self.precision,
            draft=self.draft,
        )
