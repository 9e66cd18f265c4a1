"""Run a function right after a module has been imported, without importing the module now.

verl imports its plug-ins in every process, and most processes need only a part of one.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence

AfterImport = Callable[[types.ModuleType], None]


class _Hook:
    """Finder at the head of `sys.meta_path` for one module: other finders load it, then a function is called."""

    def __init__(self, module_name: str, after: AfterImport) -> None:
        self.module_name = module_name
        self.after = after

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module_name:
            return None
        sys.meta_path.remove(self)  # so that the search below reaches the finders after this one, and only once
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_call(module: types.ModuleType) -> None:
            execute(module)
            if module.__name__ == fullname:  # a loader may serve several modules: pytest's does
                self.after(module)

        spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec


def when_imported(module_name: str, after: AfterImport) -> None:
    """Call `after(module)` right after a module is imported; immediately if it already is.

    Several functions may wait for one module; the same function is called once. If it raises, the import fails with
    that exception.
    """
    if module_name in sys.modules:
        after(sys.modules[module_name])
        return
    waiting = (hook for hook in sys.meta_path if isinstance(hook, _Hook))
    if not any(hook.module_name == module_name and hook.after is after for hook in waiting):
        sys.meta_path.insert(0, _Hook(module_name, after))  # type: ignore[arg-type]  # a finder by its shape
