"""Systems under test whose every latency is known: on the virtual clock, of given service times, or ill-behaved."""

import heapq
import queue
import threading

from aaexport.load.batching import BatchQueue
from aaexport.load.clock import RealClock, VirtualClock

MILLISECOND = 1_000_000


class Queue:
    """Serves queries in their order on as many servers; `service` is nanoseconds by the query's number."""

    def __init__(self, clock, service, servers=1):
        self.clock, self.service = clock, service
        self.free = [0] * servers

    def issue(self, query, replies):
        begins = max(self.clock.now(), heapq.heappop(self.free))
        ends = begins + self.service(query.number)
        heapq.heappush(self.free, ends)
        self.clock.at(ends, lambda: replies.answered(query.number, query.samples))


class Inline:
    """Answers before it returns, as a plain function does."""

    def __init__(self, clock, service):
        self.clock, self.service = clock, service

    def issue(self, query, replies):
        self.clock.wait(self.clock.now() + self.service(query.number))
        replies.answered(query.number, query.samples)


class Batching:
    """The policy of the batching server without its threads; `service` is nanoseconds by the size of the batch."""

    def __init__(self, clock: VirtualClock, service, max_batch, max_delay, workers=1):
        self.clock, self.service, self.idle = clock, service, workers
        self.queue = BatchQueue(max_batch, max_delay)
        self.sizes = []

    def issue(self, query, replies):
        self.queue.add(query, replies, self.clock.now())
        self.clock.at(self.queue.due, self.serve)

    def serve(self):
        due = self.queue.due
        if not self.idle or due is None:
            return
        if due > self.clock.now():
            self.clock.at(due, self.serve)
            return
        batch = self.queue.take()
        self.sizes.append(len(batch.samples))
        self.idle -= 1
        self.clock.at(self.clock.now() + self.service(len(batch.samples)), lambda: self.finish(batch))
        self.serve()

    def finish(self, batch):
        self.idle += 1
        batch.answer(batch.samples)
        self.serve()


class Stub:
    """`Queue` in real time; called with `done`, which is called when the query ends.

    Ends are planned when a query comes, so that a sleep that lasts too long delays nothing after it.
    """

    def __init__(self, service, servers):
        self.service = iter(service)
        self.clock = RealClock()
        self.free = [(0, number) for number in range(servers)]
        self.waiting = [queue.SimpleQueue() for _ in range(servers)]
        for waiting in self.waiting:
            threading.Thread(target=self.serve, args=(waiting,), daemon=True).start()

    def __call__(self, done):
        free, server = heapq.heappop(self.free)
        ends = max(self.clock.now(), free) + next(self.service)
        heapq.heappush(self.free, (ends, server))
        self.waiting[server].put((ends, done))

    def serve(self, waiting):
        never = threading.Event()
        while True:
            ends, done = waiting.get()
            self.clock.wait(ends, never)
            done()
