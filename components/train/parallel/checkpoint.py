"""Checkpoints of a training job: saved at one number of processes, resumed at another (torch.distributed.checkpoint).

    FOLDER/step-00000120/            complete: it has DONE.json, written last
    FOLDER/.step-00000140.part/      being written, or what a killed job left behind

A rank writes the shards that it holds. Nothing that is read runs code: the index, which DCP pickles, is JSON here, and only tensors are
kept, which DCP reads with `weights_only`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from components.core.errors import IntegrityError

__all__ = ["DONE", "load", "newest", "save"]

DONE = "DONE.json"
_INDEX = "index.json"
_NAME = re.compile(r"^step-(\d{8,})$")
_KEPT = 2


def save(folder: Path, step: int, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint aside, rename it, put the marker in last; then forget all but the newest two. A collective.

    Args:
        folder: On a disk that all ranks share.
        step: Steps that were taken.
        state: What this rank holds; what several hold is written once.
        facts: Small JSON facts, the same on every rank.
    """
    part, final = folder / f".step-{step:08d}.part", folder / f"step-{step:08d}"
    if _first():
        for left in (part, final):  # of a job that was killed; a complete one of this step is never written again
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir(parents=True)
    _barrier()
    with _alone_or_not() as no_dist:
        state_dict_saver.save(dict(state), storage_writer=_Writer(part), no_dist=no_dist)
    if _first():
        os.replace(part, final)
        marker = final / f"{DONE}.part"
        marker.write_text(json.dumps({"step": step, **facts}))
        os.replace(marker, final / DONE)
        for old in _complete(folder)[:-_KEPT]:
            shutil.rmtree(old)
    _barrier()


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest complete checkpoint and its facts (`step` among them), or None.

    Raises:
        IntegrityError: Its marker can't be read.
    """
    found = _complete(folder)
    if not found:
        return None
    try:
        facts = json.loads((found[-1] / DONE).read_text())
        return found[-1], {**facts, "step": int(facts["step"])}
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{found[-1] / DONE} can't be read: {error}", do=f"remove {found[-1]}; the one before it is resumed"
        ) from error


def load(path: Path, state: dict[str, Tensor]) -> None:
    """Fill a state, whose shapes and shards are this rank's, in place. A collective.

    Raises:
        IntegrityError: The checkpoint lacks a tensor, has it in another shape, or a file is damaged.
    """
    reader = _Reader(path)
    known = reader.read_metadata().state_dict_metadata
    for name, value in state.items():
        kept = known.get(name)
        if not isinstance(kept, TensorStorageMetadata) or kept.size != value.size():
            has = f"{tuple(kept.size)}" if isinstance(kept, TensorStorageMetadata) else "nothing"
            raise IntegrityError(
                f"{path.name} has {has} for {name}, which is {tuple(value.size())}",
                do="resume with the same model, or remove the checkpoints",
            )
    try:
        with _alone_or_not() as no_dist:
            state_dict_loader.load(state, storage_reader=reader, no_dist=no_dist)
    except (CheckpointException, OSError, RuntimeError) as error:
        raise IntegrityError(f"{path} can't be read: {error}", do=f"remove {path}; the one before it is resumed") from error


def _complete(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if _NAME.match(path.name) and (path / DONE).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def _alone_or_not() -> Iterator[bool]:
    """Yield `no_dist`; a single process is meant, so DCP need not warn of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield not dist.is_initialized()


class _Writer(FileSystemWriter):
    """Writes the index as JSON."""

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        places = {(entry.index.fqn, tuple(entry.index.offset or ())): entry.storage_data for part in results for entry in part}
        index = {}
        for name, tensor in metadata.state_dict_metadata.items():
            if not isinstance(tensor, TensorStorageMetadata):
                raise IntegrityError(f"{name} is no tensor", do="keep only tensors in a checkpoint")
            chunks = []
            for chunk in tensor.chunks:
                place = places[name, tuple(chunk.offsets)]
                chunks.append([*map(list, (chunk.offsets, chunk.sizes)), place.relative_path, place.offset, place.length])
            index[name] = {"dtype": str(tensor.properties.dtype).removeprefix("torch."), "size": list(tensor.size), "chunks": chunks}
        (Path(self.path) / _INDEX).write_text(json.dumps(index))


class _Reader(FileSystemReader):
    """Reads it."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / _INDEX
        tensors: dict[str, Any] = {}
        places: dict[MetadataIndex, _StorageInfo] = {}
        try:
            for name, entry in json.loads(path.read_text()).items():
                chunks = []
                for offsets, sizes, file, offset, length in entry["chunks"]:
                    if Path(file).name != file:
                        raise ValueError(f"'{file}' is not a file of the checkpoint")
                    chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
                    places[MetadataIndex(name, offsets)] = _StorageInfo(file, int(offset), int(length))
                dtype = getattr(torch, entry["dtype"])
                tensors[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(entry["size"]), chunks)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{path} can't be read: {error}", do=f"remove {path.parent}; the one before it is resumed") from error
        return Metadata(tensors, storage_data=places, storage_meta=StorageMeta(load_id=self.load_id))
