"""onnxruntime-gpu as installed → libraries by the names of CUDA's, cuBLAS's and cuDNN's, in which kernels do nothing.

What they must have is read off the CUDA provider: the symbols that it wants, and the names of cuDNN's that it looks
up. What `cudart.c` and `answers.c` do not have is generated: a call that is logged and succeeds, or, where its name
tells that it makes something, hands out an object. So onnxruntime's own CUDA provider runs without a GPU: options,
placement, the choice of kernels, bindings, captures, threads and error texts are real; numbers and times are not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
COMPILE = ("gcc", "-O1", "-w", "-fPIC", "-shared", "-I", str(HERE))
MAKES = re.compile(r"Create|LoadData|GetKernel")  # such a call's first argument is where the object goes
PROVIDER = "libonnxruntime_providers_cuda.so"


@dataclass
class Library:
    """One library to make: its file's name, its hand-written source and what that is compiled with, its symbols."""

    file: str
    source: str = ""
    define: str = ""
    symbols: set[str] = field(default_factory=set)


def provider() -> Path | None:
    """The installed onnxruntime's CUDA provider, without loading anything of it."""
    import importlib.util

    found = importlib.util.find_spec("onnxruntime")
    path = Path(found.origin).parent / "capi" / PROVIDER if found is not None and found.origin else Path()
    return path if path.is_file() else None


def why_not() -> str | None:
    """Why there can be no fake CUDA here, with the remedy; None if there can."""
    for tool in ("gcc", "nm"):
        if shutil.which(tool) is None:
            return f"there is no {tool}: install gcc and binutils"
    if provider() is None:
        return "this onnxruntime has no CUDA provider: install onnxruntime-gpu instead"
    return None


def build(folder: Path) -> None:
    """Writes the libraries into `folder`."""
    path = provider()
    assert path is not None
    runtime, *others = _libraries(path)
    _compile(runtime, folder, ("-Wl,--no-undefined", "-lpthread"))
    for library in others:
        _compile(library, folder, (f"-L{folder}", f"-l:{runtime.file}", "-Wl,-rpath,$ORIGIN"))


def _libraries(path: Path) -> list[Library]:
    """CUDA's runtime, which the others stand on, and those."""
    needed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    files = re.findall(r"NEEDED.*\[(lib(?:cu)\w+\.so\.\d+)\]", needed)
    libraries = {file: Library(file) for file in sorted(files)}
    cuda = next(file for file in files if file.startswith("libcudart."))
    libraries[cuda].source = "cudart.c"
    undefined = subprocess.run(
        ["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True
    ).stdout
    for name, version in re.findall(r"U (\w+)(?:@+(\S+))?$", undefined, re.MULTILINE):
        library = libraries.get(version) if version else libraries["libcuda.so.1"] if name.startswith("cu") else None
        if library is not None:
            library.symbols.add(name)
    for file, define in (("libcublas.", "CUBLAS"), ("libcublasLt.", "CUBLASLT")):
        library = next(each for each in libraries.values() if each.file.startswith(file))
        library.source, library.define = "answers.c", define
    cudnn = Library("libcudnn.so.9", "answers.c", "CUDNN", _names(path))
    return [libraries.pop(cuda), *libraries.values(), cudnn]


def _names(path: Path) -> set[str]:
    """Strings in the file that are calls of cuDNN's, or types: it is looked up by names, and not linked with."""
    return {match.decode() for match in re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", path.read_bytes())}


def _compile(library: Library, folder: Path, more: tuple[str, ...]) -> None:
    written = (HERE / library.source).read_text() if library.source else ""
    lines = ['#include "fake.h"']
    for name in sorted(library.symbols):
        if re.search(rf"\b{name}\(", written):
            continue
        does = "*made = fake_object(); " if MAKES.search(name) else ""
        tells = "" if name.startswith("__") else f'fake_log("{name}", ""); '  # what the compiler calls at start
        lines.append(f'int {name}(void **made) {{ {does}{tells}return fake_failure("{name}"); }}')
    generated, versions = folder / f"{library.file}.c", folder / f"{library.file}.versions"
    generated.write_text("\n".join(lines) + "\n")
    versions.write_text(f"{library.file} {{ global: *; }};\n")
    sources = [str(generated), *([str(HERE / library.source)] if library.source else [])]
    define = [f"-D{library.define}"] if library.define else []
    names = [f"-Wl,-soname,{library.file}", f"-Wl,--version-script={versions}"]
    subprocess.run([*COMPILE, *define, *names, *sources, "-o", str(folder / library.file), *more], check=True)
