"""RefCOCO in a folder, whose files may be spoiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from refused import bad_entry, mentions
from scene_sets.base import pictures, rows_in
from scene_sets.referring import ann_id_of, instances, python2_pickle, ref, save_train2014

from verl_visionr1.answers import FORMATS
from verl_visionr1.conversion.datasets import refcoco
from verl_visionr1.tools.doctor import check_parquet


class Dataset:
    """RefCOCO in a folder; `refs` and `instances` are what its files will hold."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pictures = folder, pictures()[:3]
        self.images = save_train2014(self.pictures, folder)
        self.instances = instances(self.pictures)
        self.refs: list[Any] = []

    def ref(self, picture: int = 0, thing: int = 0, texts: tuple[str, ...] = ("that",), **changes: Any) -> Any:
        shown = self.pictures[picture]
        entry = ref(len(self.refs), shown, ann_id_of(shown, shown.things[thing]), texts)
        self.refs.append({**entry, **changes})
        return self.refs[-1]

    def write(self, name: str = "refs(unc).p") -> list[Path]:
        path = self.folder / name
        path.write_bytes(json.dumps(self.refs).encode() if name.endswith(".json") else python2_pickle(self.refs))
        (self.folder / "instances.json").write_text(json.dumps(self.instances))
        return [path, self.folder / "instances.json", self.images]

    def convert(self, name: str = "refs(unc).p", **options: Any) -> tuple[list[dict[str, Any]], Any]:
        report = refcoco.convert(self.write(name), self.folder / "out.parquet", refcoco.Options(**options))
        assert check_parquet(self.folder / "out.parquet") == []
        return rows_in(report), report

    def bad(self, kind: str, *values: object, name: str = "refs(unc).p", **options: Any) -> None:
        """It fails, and names these values; with --on-error skip, the good ref beside it is left."""
        self.ref(1, texts=("the good one",))
        error, found, _ = bad_entry(self.convert, name, **options)
        assert error.kind == kind, error.kind
        assert str(error).startswith(f"{name}: ")
        assert mentions(error, *values), error
        assert [row["prompt"][0]["content"] for row in found] == [asks("the good one")]


def asks(text: str, *, allow_none: bool = False) -> str:
    instruct = FORMATS["qwen-json"].instruct
    assert instruct is not None
    return "<image>" + instruct("grounding", [text], allow_none=allow_none)
