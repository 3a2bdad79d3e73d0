"""A recipe's YAML: safe, strict about keys that stand twice, and with numbers as everyone writes them."""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["YamlError", "dump", "load"]

# YAML 1.1, which PyYAML reads, takes `1e-4` and `1.0e5` for text; YAML 1.2 and everyone who writes them mean numbers.
_EXPONENT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_FLOAT = "tag:yaml.org,2002:float"


class YamlError(ValueError):
    """Text that is no YAML of ours: one line that says why, and the line where."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                # PyYAML would let the last one win, and the first would be lost without a word.
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            seen.add(str(key.value))
        return node


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))  # so that the text '1e-4' gets its quotes


def load(text: str) -> Any:
    """Reads one document.

    Raises:
        YamlError: it is not valid, has a tag beyond plain data, or a key twice in one mapping.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        raise YamlError(" ".join(message.split()), mark.line + 1 if mark else None) from None
    except (ValueError, RecursionError) as error:  # such as the date 2024-13-45
        raise YamlError(str(error), None) from None


def dump(data: Any) -> str:
    """Writes plain data so that `load` gives the same."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
