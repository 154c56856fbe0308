"""The one place that knows what must not be shown: tokens, passwords, keys, in logs and reports.

By name where a value has one, by shape where it is inside a text, and by itself where whoever read a secret has said
so (:func:`conceal`): a provider's error may repeat the password it was sent. It is the last line of defence, not the
first: code does not log secrets. Matching is generous on names, since a hidden log field costs little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["HIDDEN", "conceal", "may_hold_secret", "names_secret", "redact", "redact_text", "without_secrets"]

HIDDEN = "[hidden]"

_NAMES = re.compile(
    r"(?i)(?:^|[_.-])(?:pass(?:word|wd|phrase)?|secret|token|authorization|cookie|credentials?|api_?key|private_?key"
    r"|access_?key|secret_?key|secret_?access_?key|auth_data)(?:$|[_.-])"
)
_SHAPES = (
    (re.compile(r"plg_[A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+(?=@)"), rf"\1:{HIDDEN}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    (
        re.compile(r"(?i)\b(password|passwd|secret|token|api_?key)(\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&]+)"),
        rf"\1\2{HIDDEN}",
    ),
)
_DEPTH = 8
_KEYS = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)[\"']?\s*:")
_SHORTEST = 6
"""Characters of a secret that is hidden wherever it stands; shorter ones are words, too."""
_known: dict[str, None] = {}


def conceal(secret: str) -> None:
    """From now on hide this very text wherever it stands, for as long as the program lives: also one that was replaced
    by a newer one is nobody's business. What is shorter than six characters is left to names and shapes."""
    if len(secret) >= _SHORTEST:
        _known[secret] = None


def without_secrets(text: str) -> str:
    """The text without the secrets that this program has read."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def names_secret(name: str) -> bool:
    """Whether a value of that name is one that must not be shown."""
    return _NAMES.search(name) is not None


def may_hold_secret(line: str) -> bool:
    """Whether a line of a YAML or JSON file has a key whose value must not be shown."""
    return any(names_secret(key) for key in _KEYS.findall(line))


def redact_text(text: str) -> str:
    """The text without what looks like a secret, and without those that are known."""
    text = without_secrets(text)
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text


def redact(value: Any, *, name: str = "", depth: int = 0) -> Any:
    """The value without secrets: hidden whole if its name says so, else by the shape of the texts within."""
    if name and _NAMES.search(name) and value is not None and value != "" and not isinstance(value, bool):
        return HIDDEN
    if isinstance(value, str):
        return redact_text(value)
    if depth >= _DEPTH:
        return HIDDEN
    if isinstance(value, Mapping):
        return {key: redact(item, name=str(key), depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, depth=depth + 1) for item in value]
    return value
