"""Reads the data of a pickle without running any code.

A pickle is a program for a stack machine, and Python's implementation calls any function that the
program names: loading an untrusted file runs its code. This implementation supports only
instructions that create numbers, text and containers. Names must be allowed by the caller, whose
function implements calls of them, and all other instructions are rejected. Standard library only.
"""

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, cast

#: Maximum number of bits of integers, enough for sizes, offsets and keys of tensors.
_MOST_BITS = 128
# The largest published models have tens of thousands of tensors with about 40 instructions each.
_MOST_OPCODES = 5_000_000
_PLAIN_KEYS = (str, int, float, bool, type(None))


class PickleError(ValueError):
    """A pickle that contains more than data, or is damaged."""


@dataclass(frozen=True)
class Name:
    """The name of a class or function in a pickle; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Stream(Protocol):
    """A readable stream: an open file, `io.BytesIO` or `mmap.mmap`."""

    def read(self, size: int, /) -> bytes:
        """Reads at most `size` bytes."""
        ...

    def readline(self) -> bytes:
        """Reads up to the next line break."""
        ...


@dataclass(frozen=True)
class Rules:
    """The rules for the content of a pickle.

    Attributes:
      names: `module.name` of all allowed classes and functions.
      call: function (`module.name`, arguments) -> value of the call.
      look_up: function from a persistent id to its value.
      ignores_state: function from a value to whether attributes for it are ignored.
    """

    names: Collection[str]
    call: Callable[[str, tuple[Any, ...]], object]
    look_up: Callable[[object], object]
    ignores_state: Callable[[object], bool] = lambda value: isinstance(value, dict)


def load_data(stream: Stream, rules: Rules) -> object:
    """The value of the pickle at the position of the stream, which moves to its end.

    Args:
      stream: a stream with a pickle of protocol 2 to 5.
      rules: allowed names and calls.

    Raises:
      PickleError: an instruction or name is not allowed, or the pickle is damaged or truncated;
        names the byte.
    """
    machine = _Machine(rules)
    where = "its start"
    try:
        opcodes = pickletools.genops(cast("IO[bytes]", stream))
        for count, (opcode, argument, at) in enumerate(opcodes):
            if count == _MOST_OPCODES:
                raise PickleError(f"over {_MOST_OPCODES:,} instructions, more than weights need")
            where = f"byte {at}, {opcode.name}"
            if opcode.name == "STOP":
                return machine.result()
            machine.run(opcode.name, argument)
    except PickleError as error:
        raise PickleError(f"{error} (at {where})") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise PickleError(f"it is damaged or truncated after {where}: {error}") from error
    raise PickleError(f"it is truncated after {where}")


@dataclass
class _Machine:
    rules: Rules
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def result(self) -> object:
        if len(self.stack) != 1 or self.marks:
            raise PickleError(f"it ends with {len(self.stack)} values, not 1")
        return self.stack[0]

    def run(self, instruction: str, argument: Any) -> None:
        if instruction in _IGNORED:
            return
        if instruction in _VALUES:
            self.stack.append(_checked(argument))
        elif instruction in _CONSTANTS:
            self.stack.append(_CONSTANTS[instruction]())
        elif instruction in _STEPS:
            _STEPS[instruction](self, argument)
        else:
            raise PickleError(f"the instruction {instruction}, which data does not need")

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError("a value below the mark")
        return self.stack.pop()

    def top(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError("a value below the mark")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def push_tuple(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def name(self, module: object, name: object) -> None:
        found = Name(_text(module), _text(name))
        if str(found) not in self.rules.names:
            raise PickleError(f"it names {found}, which is not a tensor or a container of tensors")
        self.stack.append(found)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise PickleError(f"a call of {type(function).__name__}, not of a name")
        self.stack.append(self.rules.call(str(function), arguments))

    def build(self) -> None:
        self.pop()
        if not self.rules.ignores_state(self.top()):
            raise PickleError(f"attributes for {type(self.top()).__name__}, which has none")

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(values) % 2:
            raise PickleError(f"{len(values)} keys and values for {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # The hash of a tuple recurses in C, and a deep tuple would overflow the stack.
            if type(key) not in _PLAIN_KEYS:
                raise PickleError(f"a dictionary key of type {type(key).__name__}")
            target[key] = value

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise PickleError(f"list items for {type(target).__name__}")
        target.extend(values)


def _checked(value: Any) -> Any:
    if type(value) is int and value.bit_length() > _MOST_BITS:
        raise PickleError(f"a number of {value.bit_length()} bits")
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise PickleError(f"a name of type {type(value).__name__}")
    return value


def _step_dict(machine: _Machine, _: Any) -> None:
    values = machine.pop_mark()
    machine.stack.append({})
    machine.set_items(values)


def _step_stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _step_set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.top()


_IGNORED = frozenset({"PROTO", "FRAME"})
#: Instructions whose value is their argument.
_VALUES = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: (machine.pop(), None)[1],
    "POP_MARK": lambda machine, _: (machine.pop_mark(), None)[1],
    "DUP": lambda machine, _: machine.stack.append(machine.top()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_mark()),
    "DICT": _step_dict,
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": _step_set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "GLOBAL": lambda machine, names: machine.name(*names.split(" ", 1)),
    "STACK_GLOBAL": _step_stack_global,
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.rules.look_up(machine.pop())),
}
