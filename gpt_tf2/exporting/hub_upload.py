"""Puts a folder with a model on the Hugging Face Hub."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from gpt_tf2.checkpoints.beside import OF_MODEL, OF_VOCABULARY
from gpt_tf2.checkpoints.formats import SAFETENSORS_MODELS
from gpt_tf2.checkpoints.hub import HubModel, explain, import_hub
from gpt_tf2.errors import InputError
from gpt_tf2.exporting.model_card import CARD, MARK

OURS = {*OF_VOCABULARY, *OF_MODEL, *SAFETENSORS_MODELS}  # what an earlier push may have left


def check_access(repo: str, public: bool, token: str | None) -> None:
    """Asks the hub whether a model may be put there, before anything is written.

    Args:
        repo: `owner/name`.
        public: whether everyone shall read it.
        token: None for that of HF_TOKEN or of `hf auth login`.

    Raises InputError without a token that the hub knows, or if the repository is there and its visibility another one.
    """
    hub = import_hub()
    if not token and not hub.get_token():
        raise InputError("the hub asks for one that may write: set HF_TOKEN, or run hf auth login", "token")
    api = hub.HfApi(token=token)
    with explained(hub, repo):
        api.whoami()
        with contextlib.suppress(hub.errors.RepositoryNotFoundError):
            if api.model_info(repo).private == public:
                problem = "is there, and private: make it public on its page, or leave `public` out"
                fix = problem if public else "is there, and public: add `public`, or choose another name"
                raise InputError(f"{hub.constants.ENDPOINT}/{repo} {fix}")


def upload(folder: Path, repo: str, public: bool, token: str | None, say: Callable[[str], None]) -> str:
    """Puts the files of a folder into a repository, which is made if it is not there. Returns its address.

    One commit adds them, and deletes those of an earlier model that this one lacks. A card that somebody has made their
    own is kept. The arguments are those of `check_access`.

    Raises InputError if the hub refuses.
    """
    hub = import_hub()
    api = hub.HfApi(token=token)
    files = {path.name: path for path in sorted(folder.iterdir())}
    with explained(hub, repo):
        url = str(api.create_repo(repo, private=not public, exist_ok=True))
        info = api.model_info(repo)
        there = {file.rfilename for file in info.siblings}
        if CARD in there:
            card = hub.hf_hub_download(repo, CARD, revision=info.sha, token=token)
            if MARK not in Path(card).read_text(encoding="utf-8"):
                say(f"{url}: its {CARD} is somebody's own, and is kept")
                del files[CARD]
        size = sum(path.stat().st_size for path in files.values())
        say(f"pushing {len(files)} files, {size / 1e6:,.1f} MB, to {url}")
        operations = [hub.CommitOperationAdd(name, path) for name, path in files.items()]
        operations += [hub.CommitOperationDelete(name) for name in sorted((there & OURS) - files.keys())]
        api.create_commit(repo, operations, commit_message="Push a model with gpt-tf2", parent_commit=info.sha)
    return url


@contextlib.contextmanager
def explained(hub: ModuleType, repo: str) -> Iterator[None]:
    """Turns an error of the hub's client, of any kind, into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise explain(hub, HubModel(repo, None), error, "pushed to") from None
