"""The npm package onnxruntime-web → the files of it that run models in a browser.

Nothing is fetched by itself: the package lies in a folder that is given, or where npm puts it (`PLACES`), or is
fetched where the user asks for that.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aaexport.errors import ProviderError, broken_rule, parameter

Backend = Literal["wasm", "webgpu"]
PACKAGE, VERSION = "onnxruntime-web", "~1.30.0"  # what is fetched; the examples' package.json says the same
# Of each backend the script and the WebAssembly that it loads; that for WebGPU can run on the CPU too, but is larger.
FILES: dict[Backend, tuple[str, str]] = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
# Where npm installs it: in the folder where a command runs, and by `make web` in this repository.
PLACES = (
    Path("node_modules") / PACKAGE,
    Path(__file__).parents[2] / "examples/05_run_elsewhere/web/node_modules" / PACKAGE,
)
FETCH_TIMEOUT = 300.0  # seconds


@dataclass(frozen=True)
class WebRuntime:
    """The package in `folder`, of that version."""

    folder: Path
    version: str

    def script(self, backend: Backend) -> Path:
        """The JavaScript module that a page imports."""
        return self.folder / "dist" / FILES[backend][0]

    def binary(self, backend: Backend) -> Path:
        """The WebAssembly that it loads."""
        return self.folder / "dist" / FILES[backend][1]


def find_runtime(given: str | Path | None = None) -> WebRuntime:
    """The package in the folder that is given, or in the first of `PLACES` that holds it.

    Raises:
        ProviderError: it is not there, or not whole; the text says how to get it.
    """
    places = PLACES if given is None else (Path(given), Path(given) / "node_modules" / PACKAGE)
    for place in places:
        if (place / "package.json").is_file():
            return _whole(place)
    if given is not None:
        rule = f"be the folder of npm's package {PACKAGE}"
        raise ProviderError(broken_rule("runtime_files", rule, str(given), f"`npm pack {PACKAGE}` fetches it"))
    raise ProviderError(
        f"{PACKAGE} must be at hand, got none; run `npm install {PACKAGE}@{VERSION}` here, or name the package's "
        f"folder by {parameter('runtime_files')}"
    )


def _whole(place: Path) -> WebRuntime:
    try:
        about = json.loads((place / "package.json").read_text(encoding="utf-8"))
        runtime = WebRuntime(place, str(about["version"]))
        if about["name"] != PACKAGE:
            raise ProviderError(broken_rule("runtime_files", f"hold the package {PACKAGE}", str(about["name"])))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ProviderError(f"{place / 'package.json'} must be npm's, but: {error}") from error
    for backend in FILES:
        for path in (runtime.script(backend), runtime.binary(backend)):
            if not path.is_file():
                remedy = f"install {PACKAGE}@{VERSION}"
                raise ProviderError(broken_rule("runtime_files", f"hold dist/{path.name}", str(place), remedy))
    return runtime


def fetch_runtime(room: Path) -> WebRuntime:
    """The package as npm's registry has it, unpacked in the folder `room`.

    Raises:
        ProviderError: there is no npm, or it cannot fetch it.
    """
    npm = shutil.which("npm")
    remedy = f"fetch it elsewhere by `npm pack {PACKAGE}`, and name its folder by {parameter('runtime_files')}"
    if npm is None:
        raise ProviderError(broken_rule("npm", f"be on the PATH to fetch {PACKAGE}", "none", remedy))
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(room), "--silent", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=room, capture_output=True, text=True, timeout=FETCH_TIMEOUT, check=False)
        said = next((line for line in done.stderr.splitlines() if line.strip()), f"npm ends with {done.returncode}")
        packed = next(iter(room.glob("*.tgz")), None) if done.returncode == 0 else None
        if packed is None:
            raise ProviderError(f"npm cannot fetch {PACKAGE}: {said}; {remedy}")
        with tarfile.open(packed) as archive:
            archive.extractall(room, filter="data")
    except (OSError, subprocess.TimeoutExpired, tarfile.TarError) as error:
        raise ProviderError(f"npm cannot fetch {PACKAGE}: {error}; {remedy}") from error
    return _whole(room / "package")
