"""Opening the model that settings name, and its decoder."""

from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.commands.find_model import find_model_and_base
from gpt_tf2.commands.model_settings import MAX_NEW_TOKENS, ModelSettings
from gpt_tf2.commands.progress import Counter, print_to_stderr
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.engine import Say, choose_engine, open_decoder
from gpt_tf2.errors import InputError


def find_model(settings: ModelSettings) -> tuple[OpenedModel, str]:
    """Opens the model and chooses its engine, without TensorFlow where that is not needed.

    One that is not on this machine is downloaded if a server has it.

    Raises InputError if there is no such model, or the engine cannot run here.
    """
    engine = choose_engine(settings.engine, settings.quantize, settings.precision)
    path, base = find_model_and_base(settings.model, settings.base, settings.offline)
    files = settings.json_hparams, settings.json_encoder, settings.vocab_bpe
    return open_model(path, *files, base=base), engine


def load_decoder(
    settings: ModelSettings, model: OpenedModel, engine: str, say: Say = print_to_stderr, shown: bool = True
) -> Decoder:
    """Loads the model, converting it first if its engine needs that, with progress on stderr if that is `shown`."""
    with Counter("converting, once", "blocks", stderr=True, shown=shown) as counter:
        precision, drafts = settings.quantize or settings.precision, settings.draft != "off"
        return open_decoder(model, engine, precision, say, counter.show, drafts)


def choose_max_new_tokens(settings: ModelSettings, model: OpenedModel) -> int:
    """The most tokens to generate where a prompt is shortened to fit: by default at most half of the context.

    Raises InputError if they leave no room for a prompt.
    """
    n_ctx = model.config.n_ctx
    chosen = settings.max_new_tokens or min(MAX_NEW_TOKENS, max(1, n_ctx // 2))
    if chosen >= n_ctx:
        raise InputError(
            f"leaves no room for a prompt in n_ctx {n_ctx} of {model.path}: lower it", "max_new_tokens", chosen
        )
    return chosen
