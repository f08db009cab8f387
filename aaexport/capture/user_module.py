"""A source of the user's → the nn.Module that it names, in evaluation mode.

This is the only place where Python of the user's is imported, and only what the user has named.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from aaexport.capture.failures import unexplained_source, users_line
from aaexport.capture.saved_program import load_program
from aaexport.capture.source import NAMED, Source, require_file
from aaexport.errors import ModuleError, broken_rule, did_you_mean, first_few, first_line
from aaexport.nn.own_settings import settings_kept

FAILURES = (Exception, SystemExit)  # what importing or building may raise: an exit() must not end the program


def build_module(source: Source, kwargs: Mapping[str, Any]) -> nn.Module:
    """Imports the source and calls it with `kwargs`, unless it is an instance already.

    What the user's code prints goes to stderr.

    Raises:
        ModuleError: it cannot be imported, has no such name, does not take these arguments, or makes no nn.Module.
    """
    if source.is_program:
        if kwargs:
            raise ModuleError(broken_rule("kwargs", "be left out for a program", ", ".join(kwargs)))
        return load_program(Path(source.place))
    with contextlib.redirect_stdout(sys.stderr), _looking_first_in(_folder(source)), settings_kept():
        made = _called(source, _found(source, _imported(source)), kwargs)
    if not isinstance(made, nn.Module):
        raise ModuleError(broken_rule(source.text, "be or make a torch.nn.Module", type(made).__name__))
    made.eval()  # which need not return anything: many a train() of public networks does not
    return made


def _imported(source: Source) -> ModuleType:
    require_file(source)
    place = Path(source.place)
    try:
        return _import_file(place) if source.is_file else importlib.import_module(source.place)
    except ModuleNotFoundError as error:
        if error.name is not None and source.place.split(".")[0] == error.name:
            raise ModuleError(
                broken_rule("the module", "be on Python's path or in this folder", source.place)
            ) from error
        raise ModuleError(f"{_failed('cannot be imported', source, error)}; {_remedy_for(error)}") from error
    except FAILURES as error:
        remedy = ""
        if source.is_file and isinstance(error, ImportError) and "no known parent package" in str(error):
            remedy = f"; give it as package.module:NAME{_as_part_of_its_package(source)}"
        raise ModuleError(_failed("cannot be imported", source, error) + remedy) from error


def _remedy_for(missing: ModuleNotFoundError) -> str:
    """A module that is missing from a package that is there cannot be installed."""
    package, _, name = (missing.name or "").rpartition(".")
    if package not in sys.modules:
        return f"install {missing.name}, or run where it can be imported"
    beside = pkgutil.iter_modules(getattr(sys.modules[package], "__path__", []))
    public = [module.name for module in beside if not module.name.startswith("_")]
    return f"{package} has no module {name!r}" + (f"; {did_you_mean(name, public)}" if public else "")


def _as_part_of_its_package(source: Source) -> str:
    """` (pk.n:net)`, and where from: the folder above the outermost one that is a package."""
    path = Path(source.place).resolve()
    folder = path.parent.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    parts = path.relative_to(folder).with_suffix("").parts
    if not all(part.isidentifier() for part in parts):
        return ""
    return f" ({'.'.join(parts)}:{source.name}){'' if folder == Path.cwd().resolve() else f' in the folder {folder}'}"


def _import_file(path: Path) -> ModuleType:
    """As a module of the file's name, so that its own files that import it find the same one."""
    name = path.stem
    if name in sys.modules or not name.isidentifier() or name in sys.stdlib_module_names:
        name = f"aaexport_user_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _folder(source: Source) -> Path:
    return Path(source.place).resolve().parent if source.is_file else Path.cwd()


@contextlib.contextmanager
def _looking_first_in(folder: Path) -> Iterator[None]:
    """Files beside the user's are found as when Python runs theirs.

    Later they are found last, for imports inside functions: what a library imports as it runs is not to be one of
    theirs.
    """
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:  # unless the user's code took it out
            sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def _found(source: Source, module: ModuleType) -> Any:
    found: Any = module
    for part in source.name.split("."):
        if not hasattr(found, part):
            known = [name for name, value in vars(found).items() if callable(value) or isinstance(value, nn.Module)]
            remedy = did_you_mean(part, [name for name in known if not name.startswith("_")])
            raise ModuleError(broken_rule(source.text, f"name something in {source.place}", part, remedy))
        found = getattr(found, part)
    return found


def _called(source: Source, found: Any, kwargs: Mapping[str, Any]) -> Any:
    if isinstance(found, nn.Module):
        if kwargs:
            given = ", ".join(kwargs)
            raise ModuleError(broken_rule("kwargs", f"be left out: {source.text} is an instance already", given))
        return found
    if not callable(found):
        rule = "be a torch.nn.Module, or a class or function that makes one"
        raise ModuleError(broken_rule(source.text, rule, type(found).__name__))
    _require_arguments(source, found, kwargs)
    try:
        return found(**kwargs)
    except FAILURES as error:
        raise ModuleError(_failed("cannot be built", source, error)) from error


def _require_arguments(source: Source, found: Any, kwargs: Mapping[str, Any]) -> None:
    """ModuleError unless it can be called so; what has no signature is called and sees for itself."""
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        return
    taken = [name for name, one in parameters.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        for name in kwargs:
            if name not in taken:
                raise ModuleError(broken_rule("kwargs", f"be of {source.text}", name, did_you_mean(name, taken)))
    missing = [
        name for name, one in parameters.items() if name in taken and one.default is one.empty and name not in kwargs
    ]
    if missing:
        remedy = f"give {' '.join(f'--kwargs {name}=…' for name in missing)}"
        raise ModuleError(f"{source.text} must be given {first_few(missing, NAMED)}, got none of it; {remedy}")


def _failed(what: str, source: Source, error: BaseException) -> str:
    """One line, with the last place in the user's code, which is where they would look."""
    cause = unexplained_source(error) or f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, SystemExit):
        cause = f'it ended the program ({error.code}); put what is a script under `if __name__ == "__main__"`'
    if isinstance(error, SyntaxError):
        cause = f"{type(error).__name__}: {error.msg}"  # its text has a place too, in other words
    line = users_line(error)
    return f"{source.text} {what}: {cause}{f' ({line})' if line else ''}"
