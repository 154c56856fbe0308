"""From ``module:Class`` to something that makes processes, with its arguments checked before anything starts.

A class is used as it is. Services of Pelagos need things that only a program has (the store, the pool of clouds); for
those a file names a function marked as a factory::

    @process_factory(needs=(Store, Pool))
    def compute(resources: Resources, *, threads: int = 8) -> Process:
        return ComputeService(resources.get(Store), resources.get(Pool), threads)

What it ``needs`` is opened before the app starts, so that a program which hosts only `hello` never opens a store. The
way not chosen, handing every process one bag of everything, opens all of it always and hides who uses what.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from pelagos.container.apps.resolving import Argument, Place
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import InternalError
from pelagos.model.yaml_layer import did_you_mean
from pelagos.process import Process

__all__ = ["Maker", "NoResources", "Resources", "load_maker", "process_factory"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Process])

_NEEDS = "__pelagos_factory_needs__"


class Resources(Protocol):
    """What a program has for its processes, by type. Opened when first needed, closed after the container."""

    async def open(self, kind: type[Any]) -> None:
        """Make it ready. Raises :class:`InvalidInput` for a type that this program has not, and what opening raises."""
        ...

    def get(self, kind: type[T]) -> T:
        """One that has been opened."""
        ...

    def find(self, kind: type[T]) -> T | None:
        """One that is there already, or None: for what a program may have, and need not."""
        ...


class NoResources:
    """For programs that have none."""

    async def open(self, kind: type[Any]) -> None:
        raise InternalError(f"this program has no {kind.__name__} for its processes", advice="Run it by `pelagos`.")

    def get(self, kind: type[T]) -> T:
        raise InternalError(f"{kind.__name__} was not opened", advice="Name it in the factory's `needs`.")

    def find(self, kind: type[T]) -> T | None:
        return None


@typing.overload
def process_factory(function: F, /) -> F: ...
@typing.overload
def process_factory(*, needs: tuple[type[Any], ...] = ()) -> Callable[[F], F]: ...
def process_factory(function: Any = None, /, *, needs: tuple[type[Any], ...] = ()) -> Any:
    """Mark a function ``(resources, **arguments) -> Process`` that app files may name as a class.

    It is called for each process and each restart, and returns a new object each time."""

    def mark(marked: F) -> F:
        setattr(marked, _NEEDS, tuple(needs))
        return marked

    return mark if function is None else mark(function)


class Maker:
    """Makes processes of one class or factory."""

    def __init__(self, kind: str, target: Callable[..., Process]) -> None:
        self.kind = kind
        self._target = target
        self._is_factory = hasattr(target, _NEEDS)
        self.needs: tuple[type[Any], ...] = getattr(target, _NEEDS, ())
        parameters = list(_signature(target).parameters.values())
        if self._is_factory:
            parameters = parameters[1:]
        self._open = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        self._parameters = {p.name: p for p in parameters if p.kind in named}
        try:
            where: Any = vars(_owner(target))["__init__"] if isinstance(target, type) else target
            self._hints = typing.get_type_hints(where)
        except (NameError, TypeError, AttributeError):
            self._hints = {}

    def check(
        self, arguments: Mapping[str, Argument], mistakes: list[Diagnostic], place: Place, *, whole: bool = True
    ) -> dict[str, Any]:
        """The arguments as it takes them, converted to the types of its annotations. Mistakes are added, each where its
        argument was written; what is missing, if it is ``whole``, at ``place``."""
        values: dict[str, Any] = {}
        takes = ", ".join(self._parameters) or "none"
        for name, argument in arguments.items():
            if name not in self._parameters and not self._open:
                if not argument.offered:
                    advice = did_you_mean(name, self._parameters, f"It takes: {takes}.")
                    mistakes.append(argument.place.mistake(f"{self.kind} takes no argument {name!r}", advice))
                continue
            values[name] = self._convert(name, argument, mistakes)
        if whole:
            missing = [
                name
                for name, parameter in self._parameters.items()
                if parameter.default is parameter.empty and name not in values
            ]
            if missing:
                several = "s" if len(missing) > 1 else ""
                summary = f"{self.kind} needs the argument{several} {', '.join(missing)}"
                mistakes.append(place.mistake(summary, "Give them under `arguments`, or with --arg."))
        return values

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arguments it takes."""
        return tuple(self._parameters)

    def takes(self, name: str) -> bool:
        return self._open or name in self._parameters

    def make(self, resources: Resources, values: Mapping[str, Any]) -> Process:
        """A new process. Raises what its class raises, and :class:`InternalError` if it is none."""
        made = self._target(resources, **values) if self._is_factory else self._target(**values)
        if not isinstance(made, Process):
            raise InternalError(f"{self.kind} made a {type(made).__name__}, which is no process", advice="Correct it.")
        return made

    def _convert(self, name: str, argument: Argument, mistakes: list[Diagnostic]) -> Any:
        hint = self._hints.get(name, Any)
        try:
            return msgspec.convert(argument.value, hint)
        except msgspec.ValidationError as error:
            text = str(error).partition(" - at ")[0]
            summary = f"the argument {name!r} of {self.kind}: {text[:1].lower()}{text[1:]}"
            mistakes.append(argument.place.mistake(summary))
        except TypeError:
            pass  # a type that no file can hold a value of: the class must judge for itself
        return argument.value


def _owner(cls: type) -> type:
    """The class whose ``__init__`` counts."""
    return next(owner for owner in cls.__mro__ if "__init__" in vars(owner))


def _signature(target: Callable[..., Process]) -> inspect.Signature:
    try:
        return inspect.signature(target)
    except (ValueError, TypeError):
        return inspect.Signature()


def load_maker(kind: str, directory: str | None, place: Place, mistakes: list[Diagnostic]) -> Maker | None:
    """Import ``module:Class``; None after a mistake, which is added at ``place``.

    ``directory`` is put on the import path, before all else, as Python does for a script that it runs; None: it is of a
    file nobody named, and only what is installed can be imported."""
    module_name, _, name = kind.partition(":")
    if directory is not None:
        directory = str(Path(directory))
        if directory not in sys.path:
            sys.path.insert(0, directory)
            importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            advice = f"Put {module_name.replace('.', '/')}.py beside the file, or install its package."
            mistakes.append(place.mistake(f"there is no module {module_name!r}", advice))
        else:
            mistakes.append(_broken(place, module_name, error))
        return None
    except Exception as error:  # noqa: BLE001 - code of the user, whose mistake is told with its place
        mistakes.append(_broken(place, module_name, error))
        return None
    for part in name.split("."):
        if not hasattr(found, part):
            mistakes.append(
                place.mistake(f"the module {module_name} has no {name!r}", did_you_mean(name, _classes(found)))
            )
            return None
        found = getattr(found, part)
    if (isinstance(found, type) and issubclass(found, Process)) or hasattr(found, _NEEDS):
        return Maker(kind, found)
    what = f"a {type(found).__name__}" if not isinstance(found, type) else "a class"
    mistakes.append(
        place.mistake(
            f"{kind} is {what}, but not a process",
            "Derive it from pelagos.process.Process or ServiceProcess, or mark a function with @process_factory.",
        )
    )
    return None


def _broken(place: Place, module: str, error: BaseException) -> Diagnostic:
    summary = f"the module {module!r} cannot be imported: {type(error).__name__}: {error}"
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 1))
    at = next(((file, line) for file, line in reversed(frames) if not file.startswith("<")), None)
    return place.mistake(summary, "" if at is None else f"See {at[0]}:{at[1]}.")


def _classes(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, type) or hasattr(value, _NEEDS)]
