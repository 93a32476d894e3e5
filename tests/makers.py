"""Makers of small real things: images that a small real ONNX model reads, tables that a real LightGBM model scores, dataset versions.

Not a test module; a test loads it by path, because an installed package may own the name `tests`.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from components.core.artifacts import Artifact, Kind, canonical, describe
from components.core.params import Tabular, TextLine
from components.core.store import ArtifactStore
from components.model import Member, save

DIGITS = TextLine()
LOANS = Tabular(problem="binary", classes=("paid", "default"), features={"income": "number", "grade": "category"})
PRICES = Tabular(problem="regression", features={"income": "number", "grade": "category"})
_HEIGHT, _CELL = 16, 8


def line(text: str, shade: int = 0) -> bytes:
    """Draw a text: character c is a bar in row c + 3 of a cell, with an empty cell after it. `shade` makes equal texts differ."""
    ink = np.zeros((_HEIGHT, 2 * _CELL * len(text)), dtype=np.uint8)
    for place, character in enumerate(text):
        ink[int(character) + 3, 2 * _CELL * place : 2 * _CELL * place + _CELL] = 255
    ink[-1, -1] = shade
    file = io.BytesIO()
    Image.fromarray(ink).save(file, "PNG")
    return file.getvalue()


def reader(folder: Path, mistakes: Mapping[str, str] | None = None, sharpness: float = 2.0) -> Path:
    """Write a text_line model that reads `line`'s images, and takes each key of `mistakes` for its value."""
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.zeros((11, 1, _HEIGHT, _CELL), dtype=np.float32)
    for digit in range(10):
        said = int((mistakes or {}).get(str(digit), str(digit)))
        kernel[said + 1, 0, digit + 3, :] += sharpness
    bias = np.zeros(11, dtype=np.float32)
    bias[0] = sharpness * 3  # the blank wins where no bar is
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["scores"], strides=[_CELL, _CELL]),
        helper.make_node("LogSoftmax", ["scores"], ["logs"], axis=1),
        helper.make_node("Squeeze", ["logs", "axes"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["y"], perm=[0, 2, 1]),
    ]
    constants = [
        numpy_helper.from_array(kernel, "kernel"),
        numpy_helper.from_array(bias, "bias"),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "axes"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, _HEIGHT, "w"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 11])]
    graph = helper.make_graph(nodes, "reader", inputs, outputs, constants)
    weights = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    rule = {"height": _HEIGHT, "multiple": _CELL, "min_width": 16, "max_width": 2048}
    member = Member(learner="template", runtime="onnx", file="member-0.onnx", weight=1.0, folds=(1,), preprocessing=rule)
    save(folder, task=DIGITS, members=[(member, weights)], recipe={}, card="A template.\n")
    return folder


def scorer(folder: Path, task: Tabular = LOANS, *, trees: int = 20, noise: float = 0.0, seed: int = 0) -> Path:
    """Write a LightGBM model of `loans` or `prices`; noise in its training labels makes it worse."""
    import lightgbm

    draw = np.random.Generator(np.random.PCG64(seed))
    rows = loans(400, seed=seed + 1)
    x = np.array([[row["income"], "ABC".index(row["grade"]) + 2] for row in rows])
    y = np.array([row["_score"] if task.problem == "regression" else row["_score"] > 0 for row in rows], dtype=np.float64)
    flip = draw.random(len(y)) < noise
    y = np.where(flip, draw.permutation(y), y)
    objective = "regression" if task.problem == "regression" else "binary"
    settings = {"objective": objective, "verbose": -1, "seed": 1, "num_threads": 1, "deterministic": True, "min_data_in_leaf": 10}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y, feature_name=["c0", "c1"]), num_boost_round=trees)
    plan = {
        "columns": [
            {"kind": "number", "name": "income", "fill": None},
            {"kind": "category", "name": "grade", "encoding": "code", "values": ["A", "B", "C"], "shares": [0.0, 0.0, 0.4, 0.3, 0.3]},
        ]
    }
    weights = booster.model_to_string().encode()
    member = Member(learner="lightgbm", runtime="lightgbm", file="member-0.txt", weight=1.0, folds=(trees,), preprocessing=plan)
    save(folder, task=task, members=[(member, weights)], recipe={}, card="Trees.\n")
    return folder


def loans(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Draw rows of features, with the truth behind them in `_score`."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        income, grade = round(draw.gauss(50, 15), 2), draw.choice("ABC")
        rows.append({"income": income, "grade": grade, "_score": (50 - income) / 15 + "ABC".index(grade) - 1 + draw.gauss(0, 0.5)})
    return rows


def text_row(
    text: str, split: str, *, case: bool = False, shade: int = 0, group: str | None = None, label: str | None = None
) -> dict[str, Any]:
    """Return one row of a text_line dataset version; a case's id is the start of its content hash."""
    image = line(text, shade)
    content = hashlib.sha256(image).hexdigest()
    return {
        "_id": content,
        "_group": group or content,
        "_label": label or text,
        "_source": "case" if case else "base",
        "_case": content[:32] if case else None,
        "_split": split,
        "image": image,
    }


def loan_row(row: Mapping[str, Any], split: str, *, problem: str = "binary", case: bool = False) -> dict[str, Any]:
    """Return one row of a tabular dataset version."""
    features = {"income": row["income"], "grade": row["grade"]}
    content = hashlib.sha256(canonical({**features, "score": row["_score"]})).hexdigest()
    label: Any = row["_score"] if problem == "regression" else LOANS.classes[int(row["_score"] > 0)]
    case_id = content[:32] if case else None
    shared = {"_id": content, "_group": content, "_label": label, "_source": "case" if case else "base", "_case": case_id, "_split": split}
    return {**shared, **features}


def dataset(store: ArtifactStore, rows: Sequence[Mapping[str, Any]], **metadata: Any) -> Artifact:
    """Put a dataset version."""
    ordered = sorted(rows, key=lambda row: str(row["_id"]))
    columns = {name: [row[name] for row in ordered] for name in rows[0]} if rows else {name: [] for name in text_row("1", "test")}
    types = {"_case": pa.string(), "image": pa.binary()}
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})

    def write(folder: Path) -> None:
        pq.write_table(table, folder / "data.parquet", compression="zstd")

    return publish(store, "Dataset", write, rows=len(rows), **metadata)


def snapshot(
    store: ArtifactStore,
    scenario: str,
    *,
    champion: Mapping[str, Any] | None = None,
    claimed: Sequence[str] = (),
    states: Mapping[str, str] | None = None,
) -> Artifact:
    """Put a snapshot."""
    content = {"scenario": scenario, "champion": champion, "parent": None, "claimed": sorted(claimed), "states": dict(states or {})}
    return publish(store, "Snapshot", lambda folder: (folder / "snapshot.json").write_text(json.dumps(content, sort_keys=True)))


def publish(store: ArtifactStore, kind: Kind, write: Callable[[Path], Any], *, parents: tuple[str, ...] = (), **metadata: Any) -> Artifact:
    """Put whatever `write` writes into a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        artifact = describe(folder, kind, metadata, parents)
        store.put(folder, artifact)
    return artifact
