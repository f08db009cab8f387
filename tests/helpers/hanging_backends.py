"""`aaexport` whose served models' processes hang in their next query once they are told SIGUSR1; by SIGUSR2 it takes
longer than Triton waits at its end by itself.

What takes a minute to be sure of takes seconds here.
"""

import tempfile
from pathlib import Path

from aaexport.cli.main import main
from aaexport.serving import hanging, repository, service

HANGS = """

class Hangs:
    until = 0.0

    @classmethod
    def tell(cls, number, frame):
        cls.until = time.monotonic() + (1e9 if number == signal.SIGUSR1 else 36)

    def __enter__(self):
        while time.monotonic() < self.until:
            time.sleep(0.1)

    def __exit__(self, *words):
        pass


import signal
import time

signal.signal(signal.SIGUSR1, Hangs.tell)
signal.signal(signal.SIGUSR2, Hangs.tell)


class TritonPythonModel:"""

if __name__ == "__main__":
    hanging.LONGEST, hanging.SURE, service.PROOF_SECONDS = 6.0, 1.0, 3.0
    with tempfile.TemporaryDirectory() as room:
        for file in repository.BACKEND_FILES.glob("*.py"):
            text = file.read_text().replace("\nclass TritonPythonModel:", HANGS)
            (Path(room) / file.name).write_text(text.replace("with self.at_work:", "with self.at_work, Hangs():"))
        repository.BACKEND_FILES = Path(room)
        main()
