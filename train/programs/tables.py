"""Dataclasses from TOML tables and back, strictly."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from osediff_core.errors import OSEDiffError
from osediff_core.text_files import read_text

Config = TypeVar("Config")

EXTENDS = "extends"
"""The key under which a file names another, relative to itself, that it changes."""


def read_config(cls: type[Config], path: str | Path) -> Config:
    """Read the dataclass `cls` from a TOML file; what the file leaves out keeps its default.

    A file that begins with `extends = "OTHER.toml"` changes that one. Raises OSEDiffError for a file that
    cannot be read or is not TOML, and for an unknown key or a value of the wrong type, with its full name.
    """
    return from_table(cls, _read_table(Path(path), ()))


def _read_table(path: Path, before: tuple[Path, ...]) -> dict[str, Any]:
    """Read a file and those that it extends; `before` are those that led here."""
    if path.resolve() in before:
        raise OSEDiffError(f"the configuration {path} extends itself: let one of the files stand alone")
    try:
        table = parse_toml(read_text(path))
    except OSError as error:
        raise OSEDiffError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise OSEDiffError(f"{path} is not valid TOML: {error}") from error
    other = table.pop(EXTENDS, None)
    if other is None:
        return table
    _require(isinstance(other, str), f"`{EXTENDS}` in {path} must name a file, got {other!r}")
    return _merged(_read_table(path.parent / other, (*before, path.resolve())), table)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay a table over another, section by section."""
    both = below | above
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            both[key] = _merged(below[key], above[key])
    return both


def from_table(cls: type[Config], table: dict[str, Any], where: str = "") -> Config:
    """Build the dataclass `cls` from a (nested) table, strictly; `where` prefixes names in errors."""
    hints = get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    values = {}
    for key, value in table.items():
        if key not in hints or key not in known:
            raise OSEDiffError(f"unknown key `{where}{key}` in the configuration; known: {', '.join(known)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise OSEDiffError(f"`{where}{key}` must be a section ([{where}{key}]), got {value!r}")
            values[key] = from_table(hints[key], value, f"{where}{key}.")
        elif get_origin(hints[key]) is dict:
            values[key] = _named_sections(hints[key], value, where + key)
        else:
            values[key] = _typed(value, hints[key], where + key)
    return cls(**values)


def _named_sections(kind: Any, value: Any, name: str) -> dict[str, Any]:  # noqa: ANN401
    """Build a dict of dataclasses from sections that have names of their own, [name.ANY]."""
    _require(isinstance(value, dict), f"`{name}` must hold sections ([{name}.NAME]), got {value!r}")
    section = get_args(kind)[1]
    for own, table in value.items():
        _require(isinstance(table, dict), f"`{name}.{own}` must be a section ([{name}.{own}]), got {table!r}")
    return {own: from_table(section, table, f"{name}.{own}.") for own, table in value.items()}


def to_toml(config: Any, where: str = "") -> str:  # noqa: ANN401
    """Write a configuration as TOML text that `read_config` reads back to an equal one."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    sections = {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}
    text = "".join(f"{name} = {_toml_value(v)}\n" for name, v in values.items() if name not in sections)
    for name, section in sections.items():
        text += f"\n[{where}{name}]\n{to_toml(section, f'{where}{name}.')}"
    return text.lstrip("\n")


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML. Raises ValueError where it is none."""
    try:
        import tomllib  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:  # below Python 3.11 its backport
        import tomli as tomllib  # pyright: ignore[reportMissingImports]
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _typed(value: Any, kind: Any, name: str) -> Any:  # noqa: ANN401
    """Check a TOML value against a field's type; an int becomes a float, a list a tuple, where asked for."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        kind, *others = (a for a in args if a is not type(None))
        words = [word for other in others for word in get_args(other)]  # what may stand in its place
        if value in words:
            return value
        said = f"of type {getattr(kind, '__name__', kind)} or one of {', '.join(map(repr, words))}"
        _require(not words or _is_of(value, kind), f"`{name}` must be {said}, got {value!r}")
        return _typed(value, kind, name)
    if origin is Literal:
        _require(value in args, f"`{name}` must be one of {', '.join(map(repr, args))}, got {value!r}")
        return value
    if origin in (tuple, list):
        _require(isinstance(value, list), f"`{name}` must be a list, got {value!r}")
        variadic = origin is list or args[-1] is Ellipsis
        kinds = [args[0]] * len(value) if variadic else list(args)
        _require(len(kinds) == len(value), f"`{name}` must have {len(kinds)} values, got {len(value)}")
        return origin(_typed(v, k, f"{name}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _require(_is_of(value, kind), f"`{name}` must be of type {kind.__name__}, got {value!r}")
    return value


def _is_of(value: Any, kind: Any) -> bool:  # noqa: ANN401
    """Tell whether a value is of a plain type."""
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


def _toml_value(value: Any) -> str:  # noqa: ANN401
    """Write one value; JSON's strings and lists are TOML's."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool)) else repr(value)


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise OSEDiffError(sentence)
