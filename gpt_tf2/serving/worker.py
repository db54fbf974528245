"""The thread that runs a model: it completes requests step by step, which join and leave between two steps."""

import collections
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.generation.scheduler import BaseScheduler, Request
from gpt_tf2.generation.scheduling import loops_on_device, make_scheduler


@dataclasses.dataclass(eq=False)
class Job:
    """What one caller asks of a model. Everything in it is called on the worker's thread.

    requests: to complete, each with a function as its tag, which is called once it is finished.
    prepare: makes an iterator that runs the decoder, a part at a time, before the requests begin.
    fail: is called with the error that ended the job early.
    """

    requests: Sequence[Request]
    prepare: Callable[[Decoder], Iterator[None]]
    fail: Callable[[Exception], None]


class Lane:
    """A scheduler with the requests that it runs, each with its job.

    steps: of the scheduler, while it has something to do.
    """

    def __init__(self, scheduler: BaseScheduler):
        self.scheduler = scheduler
        self.running: dict[Request, Job] = {}
        self.steps: Iterator[Request | None] | None = None

    def step(self) -> Request | None:
        """Runs the scheduler until a request is finished, which is returned, or for one step."""
        if self.steps is None:
            self.steps = self.scheduler.steps()
        try:
            return next(self.steps)
        except StopIteration:
            self.steps = None
            return None


class Worker:
    """Runs a model on a thread of its own, which starts at once.

    A request's tokens are those that it would get alone, up to rounding. Other threads call `submit`, `cancel` and
    `close` only.

    Args:
        decoder: the model. It belongs to the thread.
        end: the id that ends a completion.
        slots: how many requests run at a time.
        draft: whether to use speculative decoding by prompt lookup.

    Attributes:
        running: how many requests are in slots. waiting: how many are not yet.

    Example:
        >>> worker = Worker(decoder, tokenizer.end_of_text, slots=8)  # doctest: +SKIP
        >>> worker.submit(Job([request], lambda decoder: iter(()), print))  # doctest: +SKIP
    """

    def __init__(self, decoder: Decoder, end: int, slots: int, draft: bool = False):
        self.running = self.waiting = 0
        self._decoder, self._end, self._slots, self._draft = decoder, end, slots, draft
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._preparing: dict[Job, Iterator[None]] = {}  # in the order of arrival
        self._waiting: dict[Job, collections.deque[Request]] = {}  # of those that are prepared
        self._lanes: dict[bool, Lane] = {}  # by whether it loops on the device
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Adds a job."""
        self._inbox.put(lambda: self._preparing.update({job: job.prepare(self._decoder)}))

    def cancel(self, job: Job) -> None:
        """Drops what is left of a job before the next step. Nothing happens if it is finished."""
        self._inbox.put(lambda: self._drop(job))

    def close(self) -> None:
        """Ends the thread after the current step, and waits for it. What runs is lost."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._read_inbox():
            self._prepare_part()
            self._fill_slots()
            for lane in [lane for lane in self._lanes.values() if lane.running]:
                self._step(lane)
            self.running = sum(len(lane.running) for lane in self._lanes.values())
            self.waiting = sum(len(job.requests) for job in self._preparing) + sum(map(len, self._waiting.values()))

    def _read_inbox(self) -> bool:
        """Handles what has arrived, and waits for it if there is nothing to do. Returns False at the end."""
        while not self._inbox.empty() or not (self._preparing or self._waiting or self.running):
            handle = self._inbox.get()
            if handle is None:
                return False
            handle()
        return True

    def _drop(self, job: Job) -> None:
        self._preparing.pop(job, None)
        self._waiting.pop(job, None)
        for lane in self._lanes.values():
            for request in [request for request, owner in lane.running.items() if owner is job]:
                lane.scheduler.cancel(request)
                del lane.running[request]

    def _prepare_part(self) -> None:
        """Runs a part of what a job prepares, by turns. The requests of those that are prepared wait for slots."""
        for job, parts in list(self._preparing.items()):
            del self._preparing[job]
            try:
                next(parts)
                self._preparing[job] = parts  # behind the others
                break
            except StopIteration:
                if job.requests:
                    self._waiting[job] = collections.deque(job.requests)
            except Exception as error:
                job.fail(error)

    def _fill_slots(self) -> None:
        """Hands as many waiting requests to their schedulers as there are free slots.

        Those of the job with the fewest in slots go first, so that one of many requests does not keep the others out.
        """
        while self._waiting:
            in_slots = collections.Counter(job for lane in self._lanes.values() for job in lane.running.values())
            for job in sorted(self._waiting, key=lambda job: in_slots[job]):  # by turns where equal
                try:
                    lane = self._find_lane(self._waiting[job][0])
                except Exception as error:  # no memory for another scheduler
                    self._drop(job)
                    job.fail(error)
                    break
                if len(lane.running) < self._slots:
                    self._begin_first(job, lane)
                    break
            else:
                return

    def _begin_first(self, job: Job, lane: Lane) -> None:
        """Hands the first waiting request of a job to a scheduler. The others wait behind those of other jobs."""
        requests = self._waiting.pop(job)
        request = requests.popleft()
        if requests:
            self._waiting[job] = requests
        lane.running[request] = job
        lane.scheduler.submit(request)

    def _find_lane(self, request: Request) -> Lane:
        """The lane whose scheduler has a request's rules."""
        on_device = loops_on_device(self._decoder, request.sampler, self._end)
        if on_device not in self._lanes:
            scheduler = make_scheduler(self._decoder, request.sampler, self._end, self._slots, self._draft)
            self._lanes[on_device] = Lane(scheduler)
        return self._lanes[on_device]

    def _step(self, lane: Lane) -> None:
        """Runs a scheduler for one step, and fills the slots that become free in it."""
        try:
            while request := lane.step():
                request.tag()
                del lane.running[request]
                self._fill_slots()
        except Exception as error:  # whatever it is, the jobs of other lanes and those to come are not concerned
            self._lanes = {name: other for name, other in self._lanes.items() if other is not lane}
            for job in dict.fromkeys(lane.running.values()):
                self._drop(job)
                job.fail(error)
