"""MLflow."""

import time
from collections.abc import Mapping

import mlflow
from mlflow.entities import Metric, Param

from gpt_tf2.training.loggers.logger import LoggedRun

SECONDS_BETWEEN_WRITES = 5.0  # each is a request to a server, or a transaction
MOST_METRICS = 900  # of one write, which may hold 1000


class MLflowRun:
    """A run of MLflow; see `Logger`. It follows `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME` and MLflow's others.

    A resumed run continues under its id. What it repeats of its last steps is there twice, with equal values.
    """

    name = "mlflow"

    def __init__(self, run: LoggedRun):
        self.client = mlflow.MlflowClient()
        kept = run.read_id(self.name)
        is_nested = mlflow.active_run() is not None  # the program's own
        self.id = mlflow.start_run(run_id=kept, run_name=run.name, nested=is_nested).info.run_id
        self.waiting: list[Metric] = []
        self.written = time.monotonic()
        if not kept:
            self.client.log_batch(self.id, params=[Param(name, str(value)) for name, value in run.settings.items()])
        run.write_id(self.name, self.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self.waiting += [Metric(name, value, now, step) for name, value in values.items()]
        if time.monotonic() > self.written + SECONDS_BETWEEN_WRITES or len(self.waiting) > MOST_METRICS:
            self._write()

    def log_text(self, name: str, text: str, step: int) -> None:
        self.client.log_text(self.id, text, f"{name}/step-{step:06}.txt")

    def close(self, is_complete: bool) -> None:
        try:
            self._write()
        finally:
            mlflow.end_run("FINISHED" if is_complete else "FAILED")

    def _write(self) -> None:
        waiting, self.waiting, self.written = self.waiting, [], time.monotonic()
        if waiting:
            self.client.log_batch(self.id, metrics=waiting)
