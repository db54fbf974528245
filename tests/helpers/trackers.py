"""What trackers have kept of a run without a server, read back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768  # of wandb's file, which has the format of LevelDB's log


def read_wandb(folder: Path) -> tuple[dict[str, Any], dict[str, dict[int, Any]]]:
    """The settings, and for each name its values by step. A sample is the text of its file."""
    from wandb.proto.wandb_internal_pb2 import Record

    settings: dict[str, Any] = {}
    values: dict[str, dict[int, Any]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in read_records(path):
            record = Record()
            record.ParseFromString(data)
            settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            items = {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            if "sample/path" in items:
                items["sample"] = (path.parent / "files" / items["sample/path"]).read_text()
            for name, value in items.items():
                values.setdefault(name, {})[items["_step"]] = value
    return settings, values


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: blocks of parts, each with checksum, size and kind."""
    data, start, record = path.read_bytes(), 7, b""
    while start + 7 <= len(data):
        left = BLOCK - start % BLOCK
        if left < 7:
            start += left
            continue
        size, kind = int.from_bytes(data[start + 4 : start + 6], "little"), data[start + 6]
        record += data[start + 7 : start + 7 + size]
        start += 7 + size
        if kind in (1, 4):  # a whole record, or its last part
            yield record
            record = b""


def read_mlflow(id: str) -> tuple[dict[str, Any], dict[str, dict[int, Any]]]:
    """The same of MLflow's run with an id, at the store that its environment variables name."""
    from mlflow import MlflowClient
    from mlflow.artifacts import load_text

    client = MlflowClient()
    run = client.get_run(id)
    assert run.info.status == "FINISHED"
    values: dict[str, dict[int, Any]] = {
        name: {metric.step: metric.value for metric in client.get_metric_history(id, name)} for name in run.data.metrics
    }
    samples = [Path(artifact.path) for artifact in client.list_artifacts(id, "sample")]
    values["sample"] = {
        int(path.stem.removeprefix("step-")): load_text(f"{run.info.artifact_uri}/{path}") for path in samples
    }
    return run.data.params, values


def read_trackio(name: str) -> tuple[dict[str, Any], dict[str, dict[int, Any]]]:
    """The same of Trackio's run with a name."""
    from trackio.sqlite_storage import SQLiteStorage

    values: dict[str, dict[int, Any]] = {}
    for row in SQLiteStorage.get_logs("gpt-tf2", name):
        for key, value in row.items():
            values.setdefault(key, {})[row["step"]] = value["_value"] if key == "sample" else value
    return SQLiteStorage.get_run_config("gpt-tf2", name), values
