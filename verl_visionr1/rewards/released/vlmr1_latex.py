"""The normal form of short LaTeX answers that VLM-R1 compares: the one of the MATH dataset (arXiv 2103.03874)."""

from __future__ import annotations

import re

_DROPPED = ("\n", "\\!")
_REPLACED = (
    ("\\\\", "\\"),
    *(("tfrac", "frac"), ("dfrac", "frac")),
    *((word, "") for word in ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")),
)
_SQRT = re.compile(r"\\sqrt([^{])")
_FRAC = re.compile(r"\\frac([^{])(?:([^{])|(?=\{))")
_QUOTIENT = re.compile(r"(0|-?[1-9]\d*)/(0|-?[1-9]\d*)", re.ASCII)
_UNIT = "\\text{ "


def is_same_latex(said: str, right: str) -> bool:
    """Whether the normal forms are equal; where one of them does not exist, whether the texts are."""
    try:
        return normal_latex(said) == normal_latex(right)
    except ValueError:
        return said == right


def normal_latex(text: str) -> str:
    r"""A text in the form in which it is compared.

    Raises:
        ValueError: where the released code stops: several units, a root or fraction of nothing, `a/b` of no numbers.

    >>> normal_latex(r"x = \dfrac12 \text{ cm}"), normal_latex("1/2"), normal_latex(r"50\%")
    ('\\frac{1}{2}', '\\frac{1}{2}', '50')
    """
    form = text
    for dropped in _DROPPED:
        form = form.replace(dropped, "")
    for written, meant in _REPLACED:
        form = form.replace(written, meant)
    if form.count(_UNIT) > 1:
        raise ValueError(f"{text[:80]!r}: has several units")
    form = form.partition(_UNIT)[0].replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not form:
        return form
    if form.startswith("."):
        form = "0" + form
    name, equals, value = form.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        form = value
    _refuse_empty(form, "\\sqrt")
    form = _SQRT.sub(r"\\sqrt{\1}", form).replace(" ", "")
    _refuse_empty(form, "\\frac")
    if not any(len(piece) == 1 and piece != "{" for piece in form.split("\\frac")[1:]):
        form = _FRAC.sub(lambda m: f"\\frac{{{m[1]}}}" + (f"{{{m[2]}}}" if m[2] else ""), form)
    if form == "0.5":
        return "\\frac{1}{2}"
    if form.count("/") == 1:
        _ = [int(number) for number in form.split("/")]
    quotient = _QUOTIENT.fullmatch(form)
    return f"\\frac{{{quotient[1]}}}{{{quotient[2]}}}" if quotient else form


def _refuse_empty(form: str, command: str) -> None:
    if not all(form.split(command)[1:]):
        raise ValueError(f"{form[:80]!r}: {command} of nothing")
