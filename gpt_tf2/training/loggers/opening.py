"""Opening the loggers that a run names."""

import importlib.util
from collections.abc import Iterable

from gpt_tf2.errors import InputError
from gpt_tf2.training.loggers.logger import LoggedRun, Logger

TRACKERS = ("wandb", "mlflow", "trackio")  # packages that are imported only if they are named
LOGGERS = ("tensorboard", *TRACKERS)


def check_installed(names: Iterable[str]) -> None:
    """Raises InputError if the package of a tracker is missing."""
    for name in names:
        if name in TRACKERS and not is_installed(name):
            raise InputError(f"{name} is not installed: pip install {name}, or drop it", "log_to", name)


def is_installed(package: str) -> bool:
    """Whether a package can be imported. A folder of its name, such as wandb's own `wandb/`, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def open_tracker(name: str, run: LoggedRun) -> Logger:
    """A run of a tracker. Raises InputError, before hours of training, if it cannot begin."""
    try:
        if name == "wandb":
            from gpt_tf2.training.loggers.wandb_run import WandbRun

            return WandbRun(run)
        if name == "mlflow":
            from gpt_tf2.training.loggers.mlflow_run import MLflowRun

            return MLflowRun(run)
        from gpt_tf2.training.loggers.trackio_run import TrackioRun

        return TrackioRun(run)
    except Exception as error:  # of a library, a server or a network
        reason = f"{type(error).__name__}: {error}".replace("`", "'")
        raise InputError(f"cannot begin a run ({reason}): fix that, or drop it", "log_to", name) from None
