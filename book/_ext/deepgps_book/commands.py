"""The command line's reference, read from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each command that does something, with the words that call it, in its own order."""
    if hasattr(command, "commands"):
        for word, inner in command.commands.items():
            yield from walk(inner, f"{name} {word}")
    else:
        yield name, command


def _kind(parameter: Any) -> str:
    """Return the word for what an option takes: PATH, NUMBER, INTEGER or TEXT."""
    descriptor = getattr(parameter, "type_descriptor", None)
    said = str(descriptor.annotation if descriptor else parameter.type).lower()
    words = {"path": "PATH", "float": "NUMBER", "int": "INTEGER"}
    return next((word for part, word in words.items() if part in said), "TEXT")


def parameters(command: Any) -> list[tuple[str, str, str]]:
    """Return name, default and help of each argument and option."""
    rows = []
    for parameter in command.params:
        if "--help" in parameter.opts:
            continue
        is_option = parameter.param_type_name == "option"
        flags = [*parameter.opts, *parameter.secondary_opts]
        name = ", ".join(flags) if is_option else parameter.name.upper()
        if is_option and not getattr(parameter, "is_flag", False):
            name += f" {_kind(parameter)}"
        default = parameter.default
        if parameter.required:
            shown = "required"
        elif default is None or default is False or default == "" or callable(default):
            shown = ""
        else:
            shown = str(default)
        rows.append((name, shown, " ".join((getattr(parameter, "help", "") or "").split())))
    return rows


def usage(name: str, command: Any) -> str:
    """Return the line that calls a command: its words, its arguments, ``[OPTIONS]``."""
    words = [name]
    has_options = False
    for parameter in command.params:
        if parameter.param_type_name == "option":
            has_options |= "--help" not in parameter.opts
        else:
            word = parameter.name.upper()
            words.append(word if parameter.required else f"[{word}]")
    return " ".join(words + (["[OPTIONS]"] if has_options else []))
