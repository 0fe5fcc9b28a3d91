"""Checks on what users pass as texts."""

from collections.abc import Iterable, Iterator

_ADVICE = "drop it or replace it by a string"


def check_text(text: object, where: str) -> str:
    """Return `text` if it is a string that a tokenizer can take; `where` names it in the error.

    Raises
    ------
    TypeError
        If it is not a string (None, NaN, a number, bytes, …).
    ValueError
        If it holds a lone surrogate, which is no character and cannot be written as UTF-8.
    """
    if not isinstance(text, str):
        if text is None or text != text:  # NaN is the one value that differs from itself
            raise TypeError(f"{where} is missing ({text!r}): {_ADVICE}")
        hint = "decode it first" if isinstance(text, bytes | bytearray) else _ADVICE
        raise TypeError(f"{where} is {type(text).__name__}, not a string: {hint}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} holds a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}: "
            "clean it with text.encode('utf-8', 'replace').decode()"
        ) from None
    return text


def check_texts(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts of a list, a `datasets` column, a pandas Series or a generator, checked.

    Raises
    ------
    TypeError
        If `texts` is not iterable or is a dict or bytes, or one of them is not a string.
    ValueError
        If a text holds a lone surrogate.
    """
    if isinstance(texts, bytes | bytearray | dict) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a string or a list of strings, not {type(texts).__name__}")
    return (check_text(text, f"text {number}") for number, text in enumerate(texts))
