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
_QUOTIENT = re.compile(r"(0|-?[1-9]\d*)/(0|-?[1-9]\d*)")
_UNIT = "\\text{ "


def normal_latex(text: str) -> str:
    r"""A text in the form in which it is compared; one with several units stays as it is.

    >>> normal_latex(r"x = \dfrac12 \text{ cm}"), normal_latex("1/2"), normal_latex(r"50\%")
    ('\\frac{1}{2}', '\\frac{1}{2}', '50')
    """
    if text.count(_UNIT) > 1:
        return text
    form = text
    for dropped in _DROPPED:
        form = form.replace(dropped, "")
    for written, meant in _REPLACED:
        form = form.replace(written, meant)
    form = form.partition(_UNIT)[0].replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if form.startswith("."):
        form = "0" + form
    name, equals, value = form.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        form = value
    form = _SQRT.sub(r"\\sqrt{\1}", form).replace(" ", "")
    form = _FRAC.sub(lambda m: f"\\frac{{{m[1]}}}" + (f"{{{m[2]}}}" if m[2] else ""), form)
    if form == "0.5":
        return "\\frac{1}{2}"
    quotient = _QUOTIENT.fullmatch(form)
    return f"\\frac{{{quotient[1]}}}{{{quotient[2]}}}" if quotient else form
