"""A recipe's YAML: safe, strict about keys that stand twice, and with numbers as everyone writes them."""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["DEPTH", "YamlError", "dump", "load", "too_deep"]

#: Levels of lists and mappings; no recipe has ten.
DEPTH = 50
#: Values of one document, aliases counted wherever they stand: nine lines of aliases can stand for a billion values.
_MOST_VALUES = 200_000

# YAML 1.1, which PyYAML reads, takes `1e-4` and `1.0e5` for text; YAML 1.2 and everyone who writes them mean numbers.
_EXPONENT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_FLOAT = "tag:yaml.org,2002:float"
#: What YAML knows beyond what a recipe can say, and JSON could not write.
_FOREIGN = ("binary", "omap", "pairs", "set")


class YamlError(ValueError):
    """Text that is no YAML of ours: one line that says why, and the line where."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, 1)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    # PyYAML would let the last one win, and the first would be lost without a word.
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' stands twice", key.start_mark
                    )
                seen.add(key.value)
        return node


def _undefined(loader: _Loader, node: yaml.Node) -> Any:
    return loader.construct_undefined(node)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # In single quotes, which yaml would choose, the line break of EBCDIC is folded to a blank.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None)


_Dumper.add_representer(str, _text)

_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))  # so that the text '1e-4' gets its quotes
for _name in _FOREIGN:
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _undefined)


def _count(node: yaml.Node, counted: dict[int, int], depth: int) -> int:
    """The values in a node with every alias written out."""
    if id(node) in counted:
        return counted[id(node)]
    total = 1
    if not isinstance(node, yaml.ScalarNode):
        if depth > DEPTH:
            raise _refused(node, f"nested more than {DEPTH} levels deep")
        for child in node.value:
            for inner in child if isinstance(child, tuple) else (child,):
                total += _count(inner, counted, depth + 1)
    if total > _MOST_VALUES:
        raise _refused(node, f"stands for more than {_MOST_VALUES} values")
    counted[id(node)] = total
    return total


def _refused(node: yaml.Node, why: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, why, node.start_mark)


def load(text: str) -> Any:
    """Reads one document.

    Raises:
        YamlError: it is not valid, has a tag beyond plain data, is too deep, or a key twice in one mapping.
    """
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        raise YamlError(" ".join(message.split()), mark.line + 1 if mark else None) from None
    except RecursionError:
        raise YamlError(f"nested more than {DEPTH} levels deep", None) from None
    except (OverflowError, ValueError) as error:  # such as the date 2024-13-45
        raise YamlError(str(error)[:200], None) from None
    except (AttributeError, LookupError, TypeError) as error:  # such as `!!int ""`: what PyYAML itself trips over
        raise YamlError(f"a value does not fit its tag ({type(error).__name__})", None) from None
    if too_deep(data):
        raise YamlError(f"nested more than {DEPTH} levels deep", None)
    return data


def dump(data: Any) -> str:
    """Writes plain data so that `load` gives the same."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def too_deep(data: Any) -> bool:
    """Whether lists and mappings lie in each other more than `DEPTH` deep, or in themselves."""
    level: dict[int, Any] = {id(data): data}  # each once, however often it is shared
    for _ in range(DEPTH + 1):
        inner = [
            value
            for one in level.values()
            if isinstance(one, (dict, list, tuple))
            for value in (one.values() if isinstance(one, dict) else one)
        ]
        level = {id(value): value for value in inner if isinstance(value, (dict, list, tuple))}
        if not level:
            return False
    return True
