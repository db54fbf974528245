"""Models on the Hugging Face Hub, `hf://owner/name[@revision]`: fetched into the cache of huggingface_hub.

Only safetensors files are fetched, and what belongs to them. A pickle can run any program when it is opened.
"""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from gpt_tf2.checkpoints import peft
from gpt_tf2.checkpoints.beside import OF_ADAPTERS, OF_MODEL, OF_VOCABULARY
from gpt_tf2.checkpoints.formats import SAFETENSORS_MODELS
from gpt_tf2.errors import InputError

PREFIX = "hf://"
NAME = re.compile(r"hf://([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)(?:@(.+))?")
COMMIT = re.compile("[0-9a-f]{40}")
WEIGHTS = (*SAFETENSORS_MODELS, peft.FILE)  # one of them is opened, the best first
FETCHED = ["*.safetensors", "*.safetensors.index.json", *OF_VOCABULARY, *OF_MODEL, *OF_ADAPTERS]
LEFT_OUT = ["*/*"]  # folders hold other formats, checkpoints and logs
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FIX_OF_PICKLES = "give a revision with model.safetensors, or convert it where you trust it (save_pretrained)"


class HubModel(NamedTuple):
    """A model on the hub. repo: `owner/name`. revision: a branch, a tag or a commit; None for the newest."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_on_hub(model: str) -> bool:
    """Whether the name of a model means one on the hub."""
    return model.startswith(PREFIX)


def parse_name(model: str) -> HubModel:
    """What a name means.

    Raises InputError unless it is `hf://owner/name` or `hf://owner/name@revision`.

    Example:
        >>> parse_name("hf://ada/boats@v2")
        HubModel(repo='ada/boats', revision='v2')
    """
    match = NAME.fullmatch(model)
    if not match:
        raise InputError(f"{model}: not a name on the hub: give {PREFIX}owner/name or {PREFIX}owner/name@revision")
    return HubModel(*match.groups())


def find_cached(model: HubModel) -> Path | None:
    """The weights of a model that is whole in the cache, or None. Asks no server.

    Raises InputError if huggingface_hub is not installed.
    """
    hub = import_hub()
    try:
        folder = fetch(hub, model, local_files_only=True)
    except (hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError):
        return None
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def find_on_hub(model: HubModel, offline: bool, say: Callable[[str], None]) -> Path:
    """The weights of a model, fetched with progress on stderr if the cache lacks that revision.

    If the hub cannot be reached, the newest revision in the cache is taken, and a line says so.

    Args:
        offline: whether to ask no server. The environment's HF_HUB_OFFLINE has the same effect.
        say: prints a line.

    Raises InputError if there is no such model, if it may not be read, if it holds pickles alone, if the hub cannot be
    reached, or if huggingface_hub is not installed.

    Example:
        >>> find_on_hub(HubModel("openai-community/gpt2", None), False, print)  # doctest: +SKIP
        PosixPath('/home/ada/.cache/huggingface/hub/models--openai-community--gpt2/snapshots/607a30d/model.safetensors')
    """
    hub, cached = import_hub(), find_cached(model)
    never_changes = COMMIT.fullmatch(model.revision or "")
    if cached and (offline or never_changes or hub.constants.HF_HUB_OFFLINE):
        return cached
    if offline:
        raise InputError(
            f"{model} is not in {hub.constants.HF_HUB_CACHE}: fetch it where there is a network", "offline"
        )
    try:
        info = hub.HfApi().model_info(model.repo, revision=model.revision or hub.constants.DEFAULT_REVISION)
        if cached and cached.parent.name == info.sha:
            return cached
        check_files(model, [file.rfilename for file in info.siblings])
        say(f"downloading {model} to {hub.constants.HF_HUB_CACHE}")
        fetch(hub, model)
    except Exception as error:  # of the hub, of HTTP or of the disk; of any kind
        if isinstance(error, InputError):
            raise
        if cached and not isinstance(error, hub.errors.HfHubHTTPError):
            problem = f"the hub cannot be reached ({name_error(error)})"
            say(f"{model}: {problem}: taking {cached.parent.name:.7} from the cache")
            return cached
        raise explain(hub, model, error) from None
    path = find_cached(model)
    if path is None:
        raise InputError(f"{model}: has changed while it was fetched: start again")
    return path


def fetch(hub: ModuleType, model: HubModel, **how: Any) -> Path:
    """The folder of a model's files in the cache, which those that are missing are fetched into."""
    patterns = {"allow_patterns": FETCHED, "ignore_patterns": LEFT_OUT}
    return Path(hub.snapshot_download(model.repo, revision=model.revision, **patterns, **how))


def check_files(model: HubModel, names: list[str]) -> None:
    """Raises InputError unless one of the names is that of weights that can be opened."""
    if not any(name in WEIGHTS for name in names):
        pickles = [name for name in names if name.endswith(PICKLES)]
        if pickles:
            problem = f"{pickles[0]}, but no model.safetensors: it is a pickle, which could run any program"
            raise InputError(f"{model}: has {problem}: {FIX_OF_PICKLES}")
        raise InputError(f"{model}: has no model.safetensors: give another model")


def explain(hub: ModuleType, model: HubModel, error: Exception, done: str = "fetched from") -> InputError:
    """What the user can do about an error of the hub's client. done: what could not be done, `fetched from`."""
    errors = hub.errors
    page = f"{hub.constants.ENDPOINT}/{model.repo}"
    if isinstance(error, errors.GatedRepoError):
        return InputError(f"{model}: is gated: accept its terms at {page}, and set HF_TOKEN to a token of your account")
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(f"{model}: no such revision: see {page} for branches, tags and commits")
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(f"{model}: no such model, or a private one: check the name, or set HF_TOKEN to your token")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        fix = "check your token, and what it may do" if status in (401, 403) else "try again later"
        return InputError(f"{model}: the hub answers {status}: {fix}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return InputError(f"{model}: cannot be {done} the hub while HF_HUB_OFFLINE is set: unset it")
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{model}: not a name on the hub: give {PREFIX}owner/name or {PREFIX}owner/name@revision")
    problem = f"cannot be {done} {hub.constants.ENDPOINT} ({name_error(error)})"
    return InputError(f"{model}: {problem}: check the network and the disk")


def name_error(error: Exception) -> str:
    """An error of a library in a few words."""
    return str(error).split("\n")[0].replace("`", "")[:120] or type(error).__name__


def import_hub() -> ModuleType:
    """The package huggingface_hub. Raises InputError if it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise InputError(f"names with {PREFIX} need the package huggingface_hub: run pip install '.[hub]'") from None
    return huggingface_hub
