"""
How a settings file spells a value: in, a value of `Settings`; out, TOML on one line, which gives
the same value when it is read.

Source: TOML 1.0.0, https://toml.io/en/v1.0.0.
"""

import json
import re
from collections.abc import Mapping
from datetime import date, time
from typing import Any

from pydantic import BaseModel

from pipeline.settings.model import Rule

__all__ = ["spelled", "spelled_key"]


def spelled_key(name: str) -> str:
    """One part of a key, in quotes where it needs them."""
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else spelled(name)


def spelled(value: object) -> str:
    """A value as TOML; what a text stands for in a settings file is that text."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(map(spelled, value))}]"
        case date() | time():
            return value.isoformat()
    table = _table(value)
    if table is not None:
        pairs = (f"{spelled_key(key)} = {spelled(each)}" for key, each in table.items())
        return f"{{ {', '.join(pairs)} }}" if table else "{}"
    # JSON's escapes are TOML's, but for DEL; halves of characters have none there.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _table(value: object) -> Mapping[str, Any] | None:
    """What a table holds that gives this value; None where no table does."""
    match value:
        case Mapping():
            return {key: each for key, each in value.items() if each is not None}
        case BaseModel():
            return _table({key: getattr(value, key) for key in value.model_fields_set})
        case Rule():
            return {"match": value.match, **value.options}
    return None
