"""The signals that end a command, beside Ctrl-C."""

from __future__ import annotations

import signal


def ending_signals() -> tuple[int, ...]:
    """A termination, and a closed terminal unless whoever started the process has it ignore that, as `nohup` does."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return tuple(
        number for number in numbers if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN
    )
