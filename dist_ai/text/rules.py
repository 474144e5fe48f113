r"""Rules that prepare text for a tokenizer, and undo it: fastai's special tokens for what lower-casing would lose.

| token | says |
|---|---|
| `xxbos` | a text begins |
| `xxeos` | a text ends |
| `xxfld` | a field begins; its number follows |
| `xxmaj` | the next word begins with a capital |
| `xxup` | the next word is all capitals |
| `xxrep` | how often a character is repeated, and which |
| `xxwrep` | how often a word is repeated, and which |
| `xxunk` | a word that is not in the vocabulary |
| `xxpad` | padding |

>>> prepared("A GOOD film!!!! Very very very good.")
'xxbos xxmaj a xxup good film xxrep 4 ! xxmaj xxwrep 3 very good.'
>>> restored("xxbos xxmaj a xxup good film xxrep 4 ! xxmaj xxwrep 3 very good .".split())
'A GOOD film!!!! Very very very good.'

They are fastai's in spirit, with its special tokens, and not its token for token:

- capitals are those of all alphabets, with digits (``U2``, ``3D``), also before punctuation; fastai marks words of A-Z between
  spaces;
- a single capital is marked (``I`` is ``xxmaj i``), fastai's becomes small without a mark;
- a character is repeated from three times on in both, but here digits are not (``1000``), nor just three dots, which fastai
  makes an ellipsis;
- `replace_wrep` comes behind the rules of spaces, and ``No no no`` is a repetition;
- dashes are hyphens, and ``&quot;`` is ``"``, of which fastai makes ``&'``; ``@,@`` is undone as ``@.@`` and ``@-@`` are.

Capitals inside a word (``iPhone``, ``McDonald``) are lost in both.

A rule is a function from text to text with a name, so that an export can say which were used. Most are one pass of a regular
expression over the text without a call of Python for each match.
"""

from __future__ import annotations

import contextlib
import html
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from dist_ai.core.registry import Registry
from dist_ai.data.table import missing
from dist_ai.errors import DataError

__all__ = [
    "BOS",
    "DEFAULT_RULES",
    "EOS",
    "FLD",
    "MAJ",
    "PAD",
    "REP",
    "SPECIALS",
    "UNK",
    "UP",
    "VERSION",
    "WREP",
    "in_fields",
    "prepared",
    "restored",
    "text_rules",
    "told_of",
]

SPECIALS = (
    "xxunk",
    "xxpad",
    "xxbos",
    "xxeos",
    "xxfld",
    "xxrep",
    "xxwrep",
    "xxup",
    "xxmaj",
)
"""The special tokens, in the order of their ids."""

UNK, PAD, BOS, EOS, FLD, REP, WREP, UP, MAJ = SPECIALS

text_rules: Registry[Callable[[str], str]] = Registry(
    "text rule", "decorate the function with @dist_ai.text.text_rules.register('my_rule') before loading"
)
"""Functions from text to text by name; those of users too."""

VERSION = 1
"""Of the rules in this file: raised whenever what one of them does changes, so that nobody takes tokens kept before."""

_HTML_LEFT = str.maketrans({"\u2013": "-", "\u2014": "-"})
_REPLACED = [
    (re.compile(r"&?#39;"), "'"),
    (re.compile(r"&?#146;"), "'"),
    (re.compile(r"&?\bnbsp;"), " "),
    (re.compile(r"&?#36;"), "$"),
    (re.compile(r"\\n"), "\n"),
    (re.compile(r"&?\bquot;"), '"'),
    (re.compile(r"<br\s*/?>"), "\n"),
    (re.compile(r" @\.@ "), "."),
    (re.compile(r" @,@ "), ","),
    (re.compile(r" @-@ "), "-"),
]
_ODD = re.compile(r"[#&@<\\–—;]")  # texts without any of them, nearly all, are left alone
# Each begins with a set of characters, which is what the engine skips to, and never tries a part of a word.
# What is there again is written out: `\1{2,}` takes three times as long.
_REPEATED = re.compile(r"(\S)\1\1(?<!\d)\1*+(?<!(?<!\.)\.{3})")  # three dots are a word
_REPEATED_WORD = re.compile(r"(?<!\S)(\w++)(\s++\1\s++\1(?:\s++\1)*+)(?!\w)", re.IGNORECASE)
_SPACED = re.compile(r"\s*([/#\\])\s*")
_SPACES = re.compile(r"[ \t\r\f\v]{2,}|[\u00a0\u2009\u200b]+")
_ODD_SPACE = re.compile(r"[\t\r\f\v\u00a0\u2009\u200b]")  # with none of them and no two spaces, a text is left alone


def _ranges(chars: Iterable[str]) -> str:
    """Returns characters as what stands in the brackets of a regular expression; runs of them as ranges."""
    runs: list[list[int]] = []
    for code in map(ord, chars):
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in runs)


# The capitals of all alphabets of the basic plane: for the others the engine has no table, and would look through a list.
_UPPER = _ranges(char for char in map(chr, range(0x10000)) if char.isupper())
# The end of a contraction, whose word has the mark: the T of DON'T, and of Don'T. Told behind its first letter.
_NO_ENDING = r"(?!(?<=\w['’][DMST])(?!\w)|(?<=\w['’][RV])[eE](?!\w)|(?<=\w['’]L)[lL](?!\w))"
_ENDING = r"(?:['’](?:(?<=N['’])T|M|RE|VE|D|LL)(?!\w))"
_CAPITALS = re.compile(
    rf"([{_UPPER}0-9](?<!\w\w){_NO_ENDING}"
    rf"(?:(?<=[{_UPPER}])(?:[{_UPPER}0-9_]++{_ENDING}*|{_ENDING}++|\.(?:[{_UPPER}]\.)++)"  # NASA, U2, CAN'T; I'M; U.S.A.
    rf"|[0-9]*[{_UPPER}][{_UPPER}0-9_]*+{_ENDING}*))(?!\w)"  # 3D
)
_CAPITAL_S = re.compile(rf"(?<=[{_UPPER}0-9])(['’])S(?!\w)")
_CAPITAL = re.compile(rf"([{_UPPER}])(?<!\w\w){_NO_ENDING}(?=[^\W\d_]*[^\W\d_{_UPPER}]|(?!\w))")


@text_rules.register("fix_html")
def fix_html(text: str) -> str:
    """Replaces what HTML and old corpora leave in texts: entities, line breaks, ``@-@``."""
    if not _ODD.search(text):
        return text
    for pattern, by in _REPLACED:
        text = pattern.sub(by, text)
    return html.unescape(text.translate(_HTML_LEFT))


@text_rules.register("replace_rep")
def replace_rep(text: str) -> str:
    """Replaces three or more of a character by how many: ``"!!!!"`` by ``" xxrep 4 ! "``. Not of digits, nor just three dots."""
    return _REPEATED.sub(lambda m: f" {REP} {len(m[0])} {m[0][0]} ", text)


@text_rules.register("replace_wrep")
def replace_wrep(text: str) -> str:
    """Replaces three or more of a word by how many: ``"no no no"`` by ``"xxwrep 3 no"``. Of ``"Very very very"`` the first word
    keeps its capital.
    """

    def counted(match: re.Match[str]) -> str:
        return f"{_first_capital(match[1])}{WREP} {1 + len(match[2].split())} {match[1].lower()}"

    return _REPEATED_WORD.sub(counted, text)


def _first_capital(word: str) -> str:
    if len(word) > 1 and word.isupper():
        return f"{UP} "
    return f"{MAJ} " if word[0].isupper() else ""


@text_rules.register("spec_add_spaces")
def spec_add_spaces(text: str) -> str:
    r"""Puts spaces around ``/``, ``#`` and ``\``."""
    return _SPACED.sub(r" \1 ", text) if "/" in text or "#" in text or "\\" in text else text


@text_rules.register("rm_useless_spaces")
def rm_useless_spaces(text: str) -> str:
    """Makes one space of several."""
    return _SPACES.sub(" ", text) if "  " in text or _ODD_SPACE.search(text) else text


@text_rules.register("replace_all_caps")
def replace_all_caps(text: str) -> str:
    """Makes words of capitals small, behind ``xxup``, with n't, 'm, 're, 've, 'd and 'll; 's has a mark of its own."""
    if "'S" in text or "’S" in text:
        text = _CAPITAL_S.sub(rf" {UP} \1s", text)
    return _marked(_CAPITALS, UP, text)


@text_rules.register("replace_maj")
def replace_maj(text: str) -> str:
    """Makes the capital small that a word begins with, behind ``xxmaj``."""
    return _marked(_CAPITAL, MAJ, text)


def _marked(pattern: re.Pattern[str], mark: str, text: str) -> str:
    """Returns the text with a mark before each match of a pattern that is one group, which becomes small.

    Split and joined, which takes half the time of `re.sub`: that calls Python for every match.
    """
    parts = pattern.split(text)
    if len(parts) == 1:
        return text
    parts[1::2] = [f"{mark} {each.lower()}" for each in parts[1::2]]
    return "".join(parts)


@text_rules.register("lowercase")
def lowercase(text: str) -> str:
    """Makes the text small and puts ``xxbos`` before it; what belongs at the end of the rules."""
    return f"{BOS} {text.strip().lower()}"


@text_rules.register("add_bos")
def add_bos(text: str) -> str:
    """Puts ``xxbos`` before the text, which keeps its capitals."""
    return f"{BOS} {text.strip()}"


@text_rules.register("add_eos")
def add_eos(text: str) -> str:
    """Puts ``xxeos`` behind the text."""
    return f"{text} {EOS}"


DEFAULT_RULES = (
    "fix_html",
    "replace_rep",
    "spec_add_spaces",
    "rm_useless_spaces",
    "replace_wrep",
    "replace_all_caps",
    "replace_maj",
    "lowercase",
)
"""What prepares a text unless other rules are asked for, by name, in order: fastai's, and where they differ see above."""


def prepared(text: str, rules: Iterable[str] = DEFAULT_RULES) -> str:
    """Returns the text after the rules.

    Raises:
        ArtifactError: there is no rule of a name.
    """
    for name in rules:
        text = text_rules.find(name)(text)
    return text


def told_of(rule: Callable[[str], str]) -> str:
    """Returns what changes when a rule does, the same in every process: the version of this file, and of a user's rule its code
    and the values that it uses. Of what yet other modules have the names count alone.
    """
    ours = getattr(rule, "__module__", None) == __name__
    return f"version {VERSION} " + ("" if ours else _told(rule, {}))  # one of a user may call ours


def _told(value: Any, seen: dict[int, Any]) -> str:
    """Returns what a value is, in words.

    Args:
        value: the value.
        seen: those told of already, by their ids; they are kept, so that no other gets the id of one.
    """

    def told(part: Any) -> str:
        return _told(part, seen)

    if value is None or isinstance(value, str | bytes | int | float | complex):
        return repr(value)
    if isinstance(value, set | frozenset):
        return f"set{sorted(map(told, value))}"  # their order is another in each process
    if isinstance(value, tuple):
        return f"tuple{[told(each) for each in value]}"
    if isinstance(value, re.Pattern):
        return f"pattern {value.pattern!r} {value.flags}"
    if isinstance(value, CodeType):
        return f"code {value.co_code.hex()} {value.co_names} {told(value.co_consts)}"
    if id(value) in seen:
        return f"number {list(seen).index(id(value))}"
    seen[id(value)] = value
    if isinstance(value, Mapping):
        return f"dict{[(told(key), told(each)) for key, each in value.items()]}"
    if isinstance(value, list):
        return f"list{[told(each) for each in value]}"
    if isinstance(value, partial):
        return told((value.func, value.args, value.keywords))
    if inspect.isfunction(value):
        return f"function {told((value.__code__, value.__defaults__, value.__kwdefaults__, _used_by(value)))}"
    if inspect.ismethod(value):
        return told((value.__func__, value.__self__))
    name = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if hasattr(value, "__wrapped__"):  # such as what keeps the results of a function
        return f"{name} {told(value.__wrapped__)}"
    if inspect.isfunction(getattr(type(value), "__call__", None)):  # noqa: B004  # what it does, not whether it can
        return f"{name} {told((type(value).__call__, getattr(value, '__dict__', {})))}"
    return name


def _used_by(function: FunctionType) -> tuple[Any, ...]:
    """Returns the values that a function uses from around it and from its module, without what others define."""
    around = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it has no value yet
            around.append(cell.cell_contents)
    names = {name: function.__globals__[name] for name in _names_in(function.__code__) if name in function.__globals__}
    own = {
        name: value
        for name, value in names.items()
        if not callable(value)
        or isinstance(value, partial)
        or getattr(value, "__module__", None) == function.__module__
    }
    return around, own


def _names_in(code: CodeType) -> list[str]:
    inside = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names_in(part)]
    return sorted({*code.co_names, *inside})


def in_fields(values: Sequence[str]) -> str:
    """Returns several texts of one item as one, each behind a mark and its number, counted from 1, also where it is empty.

    >>> in_fields(["a title", "", "a body"])
    'xxfld 1 a title xxfld 2 xxfld 3 a body'
    """
    return " ".join(f"{FLD} {number} {value}".rstrip() for number, value in enumerate(values, 1))


# ------------------------------------------------------------------------------------ back

_CLOSING = set(".,!?;:)]}%’”…") | {"n't", "n’t"}
_OPENING = set("([{$“")
_ENDINGS = {ending.replace("'", mark) for ending in ("n't", "'re", "'ve", "'d", "'m", "'ll") for mark in "'’"}


def restored(tokens: Sequence[str]) -> str:
    """Returns tokens as text: special tokens are undone, and words stand as in print. `xxunk` stays, `xxfld` with its number.

    Spaces are a guess where punctuation had them otherwise; a straight quotation mark alternates between opening and closing.
    """
    words = _words(tokens)
    text, glued, open_quote = "", True, False
    for word in words:
        closes = (
            word.lower() in _CLOSING or (word == '"' and open_quote) or word.startswith(("'", "’")) or _is_dots(word)
        )
        text += word if glued or closes else f" {word}"
        glued = word in _OPENING or (word == '"' and not open_quote)
        open_quote ^= word == '"'
    return text


def _is_dots(word: str) -> bool:
    return len(word) > 1 and set(word) <= set(".!?")


def _words(tokens: Sequence[str]) -> list[str]:
    """Returns the words of tokens with their capitals and repetitions."""
    words: list[str] = []
    capital, count, of_words, all_caps = "", 0, False, False
    wants_count = False
    for token in tokens:
        if wants_count:
            count, wants_count = int(token) if token.isdigit() else 0, False
            if count:
                continue
        if token in (REP, WREP):
            wants_count, of_words = True, token == WREP
        elif token in (MAJ, UP):
            capital = token
        elif token not in (BOS, EOS, PAD):
            capital = UP if all_caps and token in _ENDINGS else capital
            word = _upper(token) if capital == UP else token[:1].upper() + token[1:] if capital == MAJ else token
            if count and of_words:
                words += [word, *[word if capital == UP else token] * (min(count, _MOST) - 1)]
            else:
                words.append(word * min(count, _MOST) if count else word)
            capital, count, all_caps = "", 0, capital == UP
    return words


def _upper(word: str) -> str:
    """Returns a word in capitals, as `replace_all_caps` takes it: of NASA's the s is small."""
    return word[:-1].upper() + "s" if word[:-2] and word.endswith(("'s", "’s")) else word.upper()


_MOST = 1000  # repetitions: a model may say xxrep 999999


def as_text(value: object) -> str:
    """Returns what an item's text is, as it is.

    Raises:
        DataError: it is no text, or empty: says what it is.
    """
    if not isinstance(value, str):
        given = "missing" if missing(value) else f"a {type(value).__name__} ({value!r:.50})"
        raise DataError(f"the text is {given}; expected a string: fill it, convert it, or leave such rows out")
    if not value.strip():
        raise DataError("the text is empty; fill it, or leave such rows out")
    return value
