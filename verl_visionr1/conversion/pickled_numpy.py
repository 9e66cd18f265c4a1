"""Read numpy arrays and numbers in pickles as lists and numbers.

numpy's own unpickling trusts its input (a forged dtype can read arbitrary memory), so it is not used: stand-ins read
the bytes of plain numbers, and refuse anything else.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_PLAIN = re.compile(r"[biuf]\d{1,2}")
_MODULES = re.compile(r"numpy(\._?core\.(multiarray|numeric))?")


class _Dtype:
    """A pickled dtype: a code such as "f8", then the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _PLAIN.fullmatch(code):
            raise pickle.UnpicklingError(f"it holds a numpy array of dtype {code!r}, not of plain numbers")
        self.code, self.order = code, "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def values(self, data: bytes | str) -> np.ndarray:
        """Read numbers from bytes; Python 2 wrote bytes as text."""
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, self.order + self.code)


class _Array(list[Any]):
    """An array under construction: an empty list until its state is set."""

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, dtype, is_fortran, data = state
        self[:] = _nested(data, dtype, shape, "F" if is_fortran else "C")


def _nested(data: bytes | str, dtype: _Dtype, shape: Sequence[int], order: str = "C") -> list[Any]:
    values = dtype.values(data).reshape(tuple(shape), order="F" if order == "F" else "C").tolist()
    return values if isinstance(values, list) else [values]


_STAND_INS: dict[str, Callable[..., Any]] = {
    "_reconstruct": lambda *_: _Array(),
    "_frombuffer": _nested,
    "ndarray": _Array,
    "dtype": _Dtype,
    "scalar": lambda dtype, data: dtype.values(data)[0].item(),
}


def stand_in(module: str, name: str) -> Callable[..., Any] | None:
    """Return the stand-in for a global that a pickle of numpy values names; None for any other global.

    >>> stand_in("numpy", "dtype"), stand_in("numpy.core.multiarray", "loads"), stand_in("os", "system")
    (<class 'verl_visionr1.conversion.pickled_numpy._Dtype'>, None, None)
    """
    if (module, name) in (("_codecs", "encode"), ("__builtin__", "bytes"), ("builtins", "bytes")):
        return lambda text="", encoding="latin1": text.encode("latin1")  # bytes that Python 3 wrote for Python 2
    return _STAND_INS.get(name) if _MODULES.fullmatch(module) else None
