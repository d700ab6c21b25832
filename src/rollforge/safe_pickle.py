"""Read pickles as data: nothing that a pickle names is called, imported or opened.

A pickle is a program that can call any function with any arguments. Here its instructions are interpreted by
:class:`_Reader`, which builds a fixed list of values (builtin containers, numbers, dates, numpy, pandas, fitted
LightGBM models, Rollforge's own classes) from their parts, and refuses everything else. Values are built by Rollforge's
own, checked code. Objects of Rollforge's classes are restored without their constructors, by setting attributes of an
empty instance.

``trusted=True`` reads any pickle with Python's own reader, which runs whatever the pickle contains. Classes whose code is in
the pickle become classes of their own; those of this process are never changed.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import pickletools
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import IO, Any, NoReturn

from rollforge import trust
from rollforge.errors import ArtifactUnreadable, BuildError, UntrustedPickle
from rollforge.limits import check_file
from rollforge.moved import current_name
from rollforge.pickle_rules import Pending, Refused, Rule, count_hashes, size_of
from rollforge.pickled_values import rule_of
from rollforge.user_code import import_file

__all__ = ["allow", "allow_package", "find_class", "load", "loads"]

_OWN_MODULES = (
    "rollforge.models.",
    "rollforge.features.dataset",
    "rollforge.features.handler",
    "rollforge.features.loader",
    "rollforge.features.alpha",
    "rollforge.features.processor",
    "rollforge.features.processor_base",
    "rollforge.record.position",
    "rollforge.market.filters",
    "rollforge.features.memory",
    "rollforge.features.timeseries",
)
"""Modules whose classes are restored, because recorders store objects of them."""
_OWN_ENUMS = {("rollforge.task", "Status"), ("rollforge.task", "Cause")}
_KNOWN_PACKAGES = ("rollforge", "numpy", "pandas", "pyarrow", "scipy", "copy_reg", "__builtin__", "qlib")
"""Packages whose classes cannot be allowed by the user, so messages do not suggest it."""
_allowed: set[tuple[str, str]] = set()
_packages: set[str] = set()


def allow(module: str, name: str) -> None:
    """Allow pickles to restore the class `name` of `module` with its own methods, in this process."""
    _allowed.add((module, name))


def allow_package(package: str) -> None:
    """Allow pickles to restore the classes of a package (or module) and its submodules with their own methods.

    Raises
    ------
    ConfigError
        For the standard library, and for an invalid package name.
    """
    trust.check_allowable(package, path="allow_package")
    _packages.add(package)


def _is_allowed(module: str, name: str) -> bool:
    return (module, name) in _allowed or _in_allowed_package(module)


def _in_allowed_package(module: str) -> bool:
    return trust.loads_back(module) or any(module == p or module.startswith(p + ".") for p in _packages)


def _is_own(module: str) -> bool:
    return any(module == m or (m.endswith(".") and module.startswith(m)) for m in _OWN_MODULES)


def find_class(module: str, name: str, *, trusted: bool = False) -> type:
    """Return a class whose objects may be restored.

    Raises
    ------
    UntrustedPickle
        If it is not on the list and `trusted` is False. Its module was not imported.
    ArtifactUnreadable
        If the class does not exist.
    """
    module = current_name(module, name)
    vouched = trusted or _is_allowed(module, name)
    if not (vouched or _is_own(module)):
        _refuse(f"{module}.{name}")
    try:
        file = None if trusted else trust.allowed_file(module)
        found: object = importlib.import_module(module) if file is None else import_file(file)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError, TypeError, BuildError) as exc:
        if not vouched:
            _refuse(f"{module}.{name}")
        raise ArtifactUnreadable(f"The module {module!r} has no class {name!r}: {exc}.") from exc
    if not isinstance(found, type) or not (trusted or _is_of(found, module, name)):
        _refuse(f"{module}.{name}")
    return found


def _is_of(found: type, module: str, name: str) -> bool:
    """Return whether allowing a module covers this class, because a module also exposes classes that it imported."""
    return (module, name) in _allowed or found.__module__ == module or _in_allowed_package(found.__module__)


def _refuse(what: str) -> NoReturn:
    if what.startswith("cloudpickle."):
        raise UntrustedPickle(
            "The pickle contains the code of a class or function, for example of a script or notebook "
            "(__main__). None of it was executed. If you trust the file, load it with trusted=True."
        )
    package = what.partition(".")[0]
    known = package in sys.stdlib_module_names or package in _KNOWN_PACKAGES
    allowing = "" if known or not package.isidentifier() else f", or allow its package: ROLLFORGE_ALLOW={package}"
    raise UntrustedPickle(
        f"The pickle names {what}, which is not on the list of types that may be loaded. None of it was "
        f"executed. If you trust the file, load it with trusted=True{allowing}."
    )


# -- rules for our own classes, and for those that the user allowed ------------------------------------------------------


def _bare(cls: type) -> Callable[..., object]:
    def make(*arguments: object) -> object:
        if arguments:
            raise Refused(f"a call of {cls.__name__} with arguments")
        return object.__new__(cls)

    return make


def _give_state(instance: object, state: object) -> object:
    """Set attributes of an instance of a Rollforge class; attributes that would hide a method are refused."""
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    for part in (attributes, slots):
        if part is None:
            continue
        if not isinstance(part, dict):
            raise Refused(f"a state of {type(instance).__name__} that is not a dict")
        for name, value in part.items():
            known = getattr(type(instance), name, None) if type(name) is str else None
            if type(name) is not str or name.startswith("__") or isinstance(known, (FunctionType, classmethod)):
                raise Refused(f"an attribute {name!r} of {type(instance).__name__}")
            object.__setattr__(instance, name, value)
    if hasattr(type(instance), trust.RESTORED):  # after its state, which can contain another value
        object.__setattr__(instance, trust.RESTORED, True)
    return instance


def _own_rule(module: str, name: str) -> Rule:
    cls = find_class(module, name)
    return Rule(value=cls, make=_bare(cls), fill=_give_state)


def _enum_rule(module: str, name: str) -> Rule:
    cls = getattr(importlib.import_module(module), name)
    return Rule(value=cls, make=lambda value: cls(str(value)))


def _allowed_rule(module: str, name: str) -> Rule:
    """Rule for an allowed class: its own methods restore it, as in Python's reader."""
    cls = find_class(module, name)

    def fill(instance: object, state: object) -> object:
        own = getattr(instance, "__setstate__", None)
        if own is None:
            return _give_state(instance, state)
        own(state)
        return instance

    return Rule(value=cls, make=cls, new=lambda *a, **k: cls.__new__(cls, *a, **k), fill=fill)


def _instance(cls: object, base: object, state: object) -> object:
    """``copyreg._reconstructor``, which creates an empty instance in protocols 0 and 1."""
    if not isinstance(cls, type) or base is not object or state is not None:
        raise Refused("an instance of a builtin type by copyreg")
    rule = _resolve(cls.__module__, cls.__qualname__)
    make = rule.new or rule.make
    if make is None:
        raise Refused(f"an instance of {cls.__name__}")
    return make()


def _resolve(module: str, name: str) -> Rule:
    if module in ("copyreg", "copy_reg") and name == "_reconstructor":
        return Rule(_instance)
    module = current_name(module, name)
    rule = rule_of(module, name)
    if rule is not None:
        return rule
    if (module, name) in _OWN_ENUMS:
        return _enum_rule(module, name)
    if _is_allowed(module, name):
        return _allowed_rule(module, name)
    if _is_own(module) and "." not in name:
        return _own_rule(module, name)
    _refuse(f"{module}.{name}")


# -- the reader --------------------------------------------------------------------------------------------------------

_MARK = object()
_MAX_STEPS = 20_000_000
_MAX_TUPLE_LENGTH = 5_000_000
_MAX_TUPLE_DEPTH = 500
_MAX_DEPTH = 100
"""How deeply arrays of objects, deques and defaultdicts may be nested directly in each other. Freeing such a nest recurses
in C and would crash the interpreter; Python bounds this recursion for its other containers."""
_MADE_ANYWAY, _MADE_PER_BYTE = 2**26, 32
"""Bytes of values that calls may create, in addition to a multiple of the size of the pickle. A pickle can let any number of
calls copy one large value."""
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8".split()
)
_SKIPPED = frozenset(["PROTO", "FRAME"])


@dataclass(slots=True)
class _Nest:
    """An array of objects, a deque or a defaultdict."""

    target: object
    depth: int = 1
    inside: bool = False
    """Whether it is in another one."""


class _Reader:
    """Interprets the instructions of one pickle.

    The stack holds values, marks, rules (a name that was looked up but not used yet) and :class:`Pending` values (an
    object whose state has not been set yet). A rule or a pending value becomes a plain value when it is put into a
    container.
    """

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, object] = {}
        self._nested: dict[int, tuple[object, int, int]] = {}
        """Nested tuples and frozensets by id: the object, the number of values in it, its depth."""
        self._hashes: dict[int, tuple[object, Counter[int]]] = {}
        """Dicts and sets being filled, by id: the object, and how often each hash occurs among its keys."""
        self._nests: dict[int, _Nest] = {}
        """Arrays of objects, deques and defaultdicts by id."""
        self._rules: dict[tuple[str, str], Rule] = {}
        self._left = 0
        """Bytes of values that calls may still create."""

    def read(self, data: bytes) -> object:
        self._left = _MADE_ANYWAY + _MADE_PER_BYTE * len(data)
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data), 1):
            if count > _MAX_STEPS:
                raise ValueError(f"it has more than {_MAX_STEPS:,} instructions")
            name = opcode.name
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _SKIPPED:
                continue
            elif name == "STOP":
                return self._pop_plain()
            else:
                step: Callable[[_Reader, object], None] | None = _STEPS.get(name)
                if step is None:
                    raise Refused(f"the instruction {name}")
                step(self, argument)
        raise ValueError("the pickle has no end")

    # The stack

    def _pop(self) -> object:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a value is missing")
        return value

    def _pop_plain(self) -> object:
        return self._plain(self._pop())

    def _plain(self, value: object) -> object:
        """Return the value of a rule or a pending value."""
        if isinstance(value, Pending):
            return self._finish(value, None)
        if isinstance(value, Rule):
            if value.value is Rule.NO_VALUE:
                raise Refused("a function as a value")
            return value.value
        return value

    def _finish(self, pending: Pending, state: object) -> object:
        if pending.done:
            return pending.result
        made = self._made(pending.finish(state))
        for key in pending.memo:
            self._memo[key] = made
        return made

    def _made(self, value: object) -> object:
        """Return what a call created, after counting it."""
        self._left -= size_of(value)
        if self._left < 0:
            raise ValueError("it creates values that are far larger than the pickle")
        if isinstance(value, (deque, defaultdict)):
            self._nest(value, ())
        elif getattr(getattr(value, "dtype", None), "hasobject", False) and hasattr(value, "ravel"):
            self._nest(value, value.ravel().tolist())
        return value

    def _nest(self, target: object, values: Iterable[object]) -> None:
        """Count how deeply arrays of objects, deques and defaultdicts are nested."""
        inner = [self._nests[id(v)] for v in values if id(v) in self._nests] if self._nests else []
        nest = self._nests.setdefault(id(target), _Nest(target))
        depth = 1 + max((n.depth for n in inner), default=0)
        if depth > _MAX_DEPTH or (depth > nest.depth and nest.inside):
            raise ValueError(f"its containers are nested more than {_MAX_DEPTH} deep, or contain themselves")
        nest.depth = max(depth, nest.depth)
        for n in inner:
            n.inside = True

    def _to_mark(self) -> list[object]:
        values: list[object] = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return [self._plain(v) for v in reversed(values)]

    def hashed(self, made: Any) -> object:
        """Return a tuple or frozenset; refuse it if hashing would take too long or recurse too deeply.

        Shared values count each time they are used, because hashing visits them each time.
        """
        inner = [v for v in made if type(v) in (tuple, frozenset)]
        if inner:
            known = [self._nested.get(id(v), (v, len(v), 1)) for v in inner]
            count, depth = len(made) + sum(k[1] for k in known), 1 + max(k[2] for k in known)
            if count > _MAX_TUPLE_LENGTH:
                raise ValueError(f"it contains a tuple of more than {_MAX_TUPLE_LENGTH:,} values")
            if depth > _MAX_TUPLE_DEPTH:
                raise ValueError(f"its tuples are nested more than {_MAX_TUPLE_DEPTH} deep")
            self._nested[id(made)] = (made, count, depth)
        return made

    def drop(self) -> None:
        self._stack.pop()

    def drop_to_mark(self) -> None:
        self._to_mark()

    # Memo

    def put(self, key: int | None) -> None:
        place = len(self._memo) if key is None else key
        value = self._stack[-1]
        if value is _MARK:
            raise ValueError("a mark is not a value")
        if isinstance(value, Pending):
            value.memo.append(place)
        self._memo[place] = value

    def get(self, key: int) -> None:
        self._stack.append(self._memo[key])

    # Containers

    def append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) not in (list, deque):
            raise Refused("appending to a value that is not a list")
        if type(target) is deque:
            self._nest(target, values)
        target.extend(values)

    def set_items(self, values: list[object]) -> None:
        target = self._stack[-1]
        if type(target) not in (dict, OrderedDict, defaultdict, Counter):
            raise Refused("setting items of a value that is not a dict")
        if len(values) % 2:
            raise ValueError("a key without a value")
        self._count_hashes(target, values[::2])
        if type(target) is defaultdict:
            self._nest(target, values[1::2])
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[key] = value

    def add_items(self, values: list[object]) -> None:
        target = self._stack[-1]
        if type(target) is not set:
            raise Refused("adding to a value that is not a set")
        self._count_hashes(target, values)
        target.update(values)

    def _count_hashes(self, target: object, keys: list[object]) -> None:
        count_hashes(keys, self._hashes.setdefault(id(target), (target, Counter()))[1])

    # Objects

    def call(
        self, rule: object, arguments: object, *, new: bool = False, keywords: dict[str, object] | None = None
    ) -> None:
        if not isinstance(rule, Rule):
            rule = self._rule_of_value(rule)
        if not isinstance(arguments, tuple):
            raise Refused("a call whose arguments are not a tuple")
        maker = rule.new if new and rule.new is not None else rule.make
        if maker is None:
            raise Refused("a call of a value that is only a name")
        self._stack.append(self._made(maker(*arguments, **keywords) if keywords else maker(*arguments)))

    def rule(self, module: str, name: str) -> Rule:
        """Return the rule of a name; finding it again and again would take most of the time."""
        found = self._rules.get((module, name))
        if found is None:
            found = self._rules[module, name] = _resolve(module, name)
        return found

    def _rule_of_value(self, value: object) -> Rule:
        if isinstance(value, type):
            return self.rule(value.__module__, value.__qualname__)
        raise Refused(f"a call of a {type(value).__name__}")

    def build(self, state: object) -> None:
        target = self._pop()
        if isinstance(target, Pending):
            self._stack.append(self._finish(target, state))
            return
        if isinstance(target, Rule):
            raise Refused("setting attributes of a class or function")
        rule = self._rule_of_value(type(target))
        if rule.fill is None:
            raise Refused(f"setting attributes of a {type(target).__name__}")
        self._stack.append(rule.fill(target, state))


def _global(reader: _Reader, argument: str) -> None:
    module, _, name = argument.partition(" ")
    reader._stack.append(reader.rule(module, name))


def _stack_global(reader: _Reader, _: object) -> None:
    name, module = reader._pop(), reader._pop()
    if type(name) is not str or type(module) is not str:
        raise Refused("a name that is not a string")
    reader._stack.append(reader.rule(module, name))


def _reduce(reader: _Reader, _: object) -> None:
    arguments, rule = reader._pop(), reader._pop()
    reader.call(rule, arguments)


def _newobj(reader: _Reader, _: object) -> None:
    arguments, rule = reader._pop(), reader._pop()
    reader.call(rule, arguments, new=True)


def _newobj_ex(reader: _Reader, _: object) -> None:
    keywords, arguments, rule = reader._pop(), reader._pop(), reader._pop()
    if type(keywords) is not dict:
        raise Refused("a call whose keywords are not a dict")
    reader.call(rule, arguments, new=True, keywords=keywords)


def _inst(reader: _Reader, argument: str) -> None:
    module, _, name = argument.partition(" ")
    reader.call(reader.rule(module, name), tuple(reader._to_mark()))


def _obj(reader: _Reader, _: object) -> None:
    values: list[object] = []
    while (value := reader._stack.pop()) is not _MARK:
        values.append(value)
    if not values:
        raise ValueError("a class is missing")
    rule, *arguments = reversed(values)
    reader.call(rule, tuple(reader._plain(a) for a in arguments))


def _tuple_of(size: int) -> Callable[[_Reader, object], None]:
    def step(reader: _Reader, _: object) -> None:
        values = [reader._pop_plain() for _ in range(size)]
        reader._stack.append(reader.hashed(tuple(reversed(values))))

    return step


def _dict_of(values: list[object]) -> dict[object, object]:
    count_hashes(values[::2], Counter())
    return dict(zip(values[::2], values[1::2], strict=True))


def _frozenset_of(values: list[object]) -> frozenset[object]:
    count_hashes(values, Counter())
    return frozenset(values)


def _set_item(reader: _Reader, _: object) -> None:
    value, key = reader._pop_plain(), reader._pop_plain()
    reader.set_items([key, value])


def _push(make: Callable[[_Reader], object]) -> Callable[[_Reader, object], None]:
    return lambda reader, _: reader._stack.append(make(reader))


_STEPS: dict[str, Callable[[_Reader, Any], None]] = {
    "MARK": _push(lambda r: _MARK),
    "POP": lambda r, _: r.drop(),
    "POP_MARK": lambda r, _: r.drop_to_mark(),
    "DUP": _push(lambda r: r._stack[-1]),
    "PUT": lambda r, key: r.put(key),
    "BINPUT": lambda r, key: r.put(key),
    "LONG_BINPUT": lambda r, key: r.put(key),
    "MEMOIZE": lambda r, _: r.put(None),
    "GET": lambda r, key: r.get(key),
    "BINGET": lambda r, key: r.get(key),
    "LONG_BINGET": lambda r, key: r.get(key),
    "EMPTY_LIST": _push(lambda r: []),
    "EMPTY_DICT": _push(lambda r: {}),
    "EMPTY_SET": _push(lambda r: set()),
    "EMPTY_TUPLE": _push(lambda r: ()),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": _push(lambda r: r.hashed(tuple(r._to_mark()))),
    "LIST": _push(lambda r: r._to_mark()),
    "DICT": _push(lambda r: _dict_of(r._to_mark())),
    "FROZENSET": _push(lambda r: r.hashed(_frozenset_of(r._to_mark()))),
    "APPEND": lambda r, _: r.append([r._pop_plain()]),
    "APPENDS": lambda r, _: r.append(r._to_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda r, _: r.set_items(r._to_mark()),
    "ADDITEMS": lambda r, _: r.add_items(r._to_mark()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _newobj,
    "NEWOBJ_EX": _newobj_ex,
    "INST": _inst,
    "OBJ": _obj,
    "BUILD": lambda r, _: r.build(r._pop_plain()),
}


# -- the reader of trusted pickles ---------------------------------------------------------------------------------------


class _TrustedReader(pickle.Unpickler):
    """Python's own reader, except that it never changes a class of this process.

    cloudpickle recognizes a class that it has pickled in this process. When it reads the class again, it replaces the methods
    of the existing class by copies, which refer to copies of the global variables.
    """

    def __init__(self, file: IO[bytes], *, known_classes: bool) -> None:
        super().__init__(file)
        self._known_classes = known_classes
        self._known: list[type] = []

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if module.partition(".")[0] == "cloudpickle":
            if name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return functools.partial(self._class, found)
            if name == "_class_setstate":
                return functools.partial(self._give_members, found)
        return found

    def _class(self, make: Callable[..., type], *arguments: Any) -> type:
        *parts, number, extra = arguments
        if self._known_classes:
            import cloudpickle.cloudpickle

            known = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
            if number in known:
                self._known.append(known[number])
                return self._known[-1]
        return make(*parts, None, extra)

    def _give_members(self, give: Callable[[type, object], object], kind: type, members: object) -> object:
        return kind if any(one is kind for one in self._known) else give(kind, members)


# -- entry points --------------------------------------------------------------------------------------------------------


def load(file: IO[bytes] | str | Path, *, trusted: bool = False, known_classes: bool = False) -> Any:
    """Return the object pickled in `file`.

    Parameters
    ----------
    file : binary file or path
        The file to read.
    trusted : bool
        If True, load any pickle, which runs whatever code it names.
    known_classes : bool
        What happens if a trusted pickle contains the code of a class that is in this process, such as one of a notebook. If
        True, its objects are of the class in this process; otherwise of a copy, with the code in the pickle.

    Raises
    ------
    UntrustedPickle
        If the pickle names something that is not on the list. None of it has run.
    ArtifactUnreadable
        If the bytes are not a pickle, are truncated, or contain inconsistent values.
    ConfigError
        If ``ROLLFORGE_ALLOW`` contains a name that cannot be allowed.
    """
    if not trusted:
        trust.check_allowed()  # an error in the allow-list is not an error of the file
    if isinstance(file, (str, Path)):
        check_file(file, error=ArtifactUnreadable)
        with open(file, "rb") as handle:
            return load(handle, trusted=trusted, known_classes=known_classes)
    where = str(getattr(file, "name", "the data"))
    try:
        return _TrustedReader(file, known_classes=known_classes).load() if trusted else _Reader().read(file.read())
    except (UntrustedPickle, ArtifactUnreadable):
        raise
    except Refused as exc:
        raise UntrustedPickle(
            f"The pickle asks for {exc}, which this reader does not support. None of it was executed. If "
            "you trust the file, load it with trusted=True."
        ) from exc
    except Exception as exc:
        if trusted and not isinstance(
            exc, (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError)
        ):
            raise
        raise ArtifactUnreadable(f"{where} is not a readable pickle: {type(exc).__name__}: {exc}") from exc


def loads(data: bytes, *, trusted: bool = False) -> Any:
    """Return the object pickled in `data`; see :func:`load`."""
    return load(io.BytesIO(data), trusted=trusted)
