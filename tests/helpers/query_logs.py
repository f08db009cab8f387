"""Query logs by hand: latencies in milliseconds → what a run would have left."""

import numpy as np

from aaexport.load.run import UNANSWERED, QueryLog

MILLISECOND = 1_000_000


def closed(latencies, samples=1):
    """One query at a time: each is sent when the one before it is answered."""
    taken = np.rint(np.asarray(latencies, float) * MILLISECOND).astype(np.int64)
    sent = np.cumsum(taken) - taken
    return QueryLog(sent, sent, sent + taken, np.full(len(taken), samples, np.int32))


def opened(latencies, rate, delays=0, unanswered=0):
    """Queries due at a constant rate, sent `delays` milliseconds late; the last `unanswered` have no answer."""
    taken = np.rint(np.asarray(latencies, float) * MILLISECOND).astype(np.int64)
    due = (np.arange(len(taken)) * 1e9 / rate).astype(np.int64)
    issued = due + np.rint(np.broadcast_to(delays, len(taken)) * MILLISECOND).astype(np.int64)
    completed = np.where(np.arange(len(taken)) < len(taken) - unanswered, due + taken, UNANSWERED)
    return QueryLog(due, issued, completed, np.ones(len(taken), np.int32))
