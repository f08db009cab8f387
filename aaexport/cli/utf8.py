"""A process whose locale knows ASCII alone, or Latin-1 → the same command line in a process that reads UTF-8."""

from __future__ import annotations

import os
import sys


def read_paths_as_utf8() -> None:
    """Starts the interpreter again, in its UTF-8 mode, where Python takes paths for something else than UTF-8.

    onnxruntime, torch and safetensors take paths as UTF-8 whatever the locale says, so that `modèle` would be a file
    that they cannot find. What is printed stays in the characters that the streams have.
    """
    if os.name == "nt" or not sys.executable or sys.getfilesystemencoding().lower() in ("utf-8", "utf8"):
        return
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
