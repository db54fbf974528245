"""The journal of an evaluation by one process or several: each adds to a file of its own, and all know all results."""

import glob
from pathlib import Path
from typing import Any

from gpt_tf2.backend.starting import leave_processes
from gpt_tf2.backend.workers import Workers
from gpt_tf2.errors import InputError
from gpt_tf2.storage.journal import Journal, read_results


class SharedJournal:
    """Results by key that survive a kill, whatever number of processes resumes.

    The first process writes `path`, the second `path.1`, and so on. When it is opened, each process reads all of these
    files that it sees, and they exchange what they have read.

    Args:
        path: the first process's file.
        job: everything that the results depend on; the same in all processes.

    Attributes:
        results: key to result: of all processes when it is opened or gathered, and this one's since.
        damage: a line to show on what is damaged in this one's file; empty if nothing is.

    Raises InputError if a file cannot be read or written, if the processes have different jobs, or if one has ended.
    """

    def __init__(self, path: Path, job: str, workers: Workers):
        self.path, self._workers = path, workers
        known: dict[str, Any] = {}
        for file in self._list_files():
            known |= read_results(file, job)[0]
        offers = workers.exchange([job, known])
        if any(other != job for other, _ in offers):
            leave_processes()
            raise InputError("the processes of this run have different settings, models or data: give all the same")
        self._own = Journal(path.with_name(f"{path.name}.{workers.number}") if workers.number else path, job)
        self.damage = self._own.damage
        self.results: dict[str, Any] = {key: result for _, known in offers for key, result in known.items()}

    def get(self, key: str) -> Any | None:
        """A result, or None if there is none yet."""
        return self.results.get(key)

    def put(self, key: str, result: Any) -> None:
        """Adds a result, a JSON value. It is on disk when this returns. Raises InputError if it cannot be written."""
        self._own.put(key, result)
        self.results[key] = result

    def gather(self) -> None:
        """Adds the results of all other processes, once they have all called this."""
        for results in self._workers.exchange(self._own.results):
            self.results |= results

    def remove(self) -> None:
        """Deletes the files, once all processes have called this: the job is done."""
        self._workers.exchange(None)
        self._own.remove()
        if self._workers.is_main:
            for file in self._list_files()[1:]:
                file.unlink(missing_ok=True)  # of processes that an earlier run had, or that deleted it themselves

    def _list_files(self) -> list[Path]:
        """The journals of all processes, the first one's first, also those that an earlier run left."""
        numbered = self.path.parent.glob(f"{glob.escape(self.path.name)}.*")
        return [self.path, *(file for file in numbered if file.suffix[1:].isdigit())]
