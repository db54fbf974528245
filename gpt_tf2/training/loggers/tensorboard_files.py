"""TensorBoard's event files."""

import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from gpt_tf2.training.loggers.logger import LoggedRun, as_it_stands

SECONDS_BETWEEN_FLUSHES = 30.0


class TensorBoardFiles:
    """A file of TensorBoard's events; see `Logger`. A value is on disk after half a minute at the latest.

    TensorBoard's own writer writes in a thread, whose errors, of a full disk, nobody can catch.

    Args:
        folder: created if it is missing.

    Its functions raise OSError if the file cannot be written.
    """

    def __init__(self, run: LoggedRun, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.name = str(folder)
        self.file = (folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}").open("xb")
        self.records = RecordWriter(self.file)
        self.flushed = time.monotonic()
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if not run.is_resumed:
            self.log_text("settings", "\n".join(f"{name} = {value}" for name, value in run.settings.items()), 0)
        self.file.flush()

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._write_summary(scalar_pb(name, value), step)
        if time.monotonic() > self.flushed + SECONDS_BETWEEN_FLUSHES:
            self.file.flush()
            self.flushed = time.monotonic()

    def log_text(self, name: str, text: str, step: int) -> None:
        self._write_summary(text_pb(name, as_it_stands(text)), step)

    def close(self, is_complete: bool) -> None:
        self.file.close()

    def _write_summary(self, summary: Summary, step: int) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Event) -> None:
        self.records.write(event.SerializeToString())
