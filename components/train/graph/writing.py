"""Folders of .npy files that are either whole or not there: written aside, the manifest last, then renamed.

A killed writer leaves a folder `.NAME.…` beside the target and never a target without its manifest.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from components.core.artifacts import MANIFEST
from components.core.errors import DataError, IntegrityError, TryAgain

__all__ = ["NpyWriter", "read_manifest", "rows_of", "shape_of", "written"]


@contextmanager
def written(folder: Path, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (a folder to write into, facts for the manifest); at the end the folder takes its name.

    Raises:
        DataError: The target exists.
        TryAgain: The disk can't be written.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already", do="give a new folder, or remove this one")
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    facts: dict[str, Any] = {}
    try:
        aside.mkdir(parents=True)
        yield aside, facts
        sizes = {path.relative_to(aside).as_posix(): path.stat().st_size for path in sorted(aside.rglob("*")) if path.is_file()}
        with (aside / MANIFEST).open("w") as file:
            json.dump({"kind": kind, **facts, "bytes": sizes}, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(folder)
    except OSError as error:
        raise TryAgain(f"{folder} can't be written: {error}", do="free space or check the volume, then run it again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_manifest(folder: Path, kind: str) -> Mapping[str, Any]:
    """Return the facts of a whole folder.

    Raises:
        DataError: There is none, or it is of another kind.
        IntegrityError: The manifest can't be read, or a file is not as long as it says.
    """
    try:
        manifest: Mapping[str, Any] = json.loads((folder / MANIFEST).read_text())
        found, sizes = manifest["kind"], dict(manifest["bytes"])
    except FileNotFoundError:
        raise DataError(f"{folder} has no {MANIFEST}", do="give a folder that was written to its end") from None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"the manifest in {folder} can't be read: {error}", do="write the folder again") from error
    if found != kind:
        raise DataError(f"{folder} holds {found}", do=f"give a folder of {kind}")
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise IntegrityError(f"{path} is not the file of {size} bytes that was written", do="write the folder again")
    return manifest


class NpyWriter:
    """Appends rows to one .npy file; the header gets its length at the end, in place.

    Args:
        path: Of the file.
        dtype: Of its values.
        width: Values a row; None: one-dimensional.
    """

    def __init__(self, path: Path, dtype: DTypeLike, width: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.dtype, self.width, self.rows = np.dtype(dtype), width, 0
        self._file = path.open("wb")
        self._header()
        self._begin = self._file.tell()

    def append(self, rows: NDArray[Any]) -> None:
        """Write (n,) or (n, width) values after those before."""
        self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).data.cast("B") if rows.size else b"")
        self.rows += len(rows)

    def close(self) -> None:
        """Complete the header. Raises IntegrityError where NumPy would no longer leave room for it."""
        self._file.seek(0)
        self._header()
        moved = self._file.tell() != self._begin
        self._file.close()
        if moved:
            raise IntegrityError(f"the header of {self._file.name} outgrew its place", do="use the NumPy of constraints.txt")

    def _header(self) -> None:
        # NumPy pads headers so that the first axis can grow to 21 digits in place (numpy.lib.format, GROWTH_AXIS_MAX_DIGITS).
        shape = (self.rows,) if self.width is None else (self.rows, self.width)
        npy.write_array_header_1_0(self._file, {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape})


def shape_of(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return (shape, dtype) of a .npy file. Raises as `rows_of`."""
    with _opened(path) as (_, shape, dtype):
        return shape, dtype


def rows_of(path: Path, chunk: int) -> Iterator[NDArray[Any]]:
    """Yield a .npy file's rows, at most `chunk` at a time, all in one buffer: a part is valid until the next one.

    Plain reads, because the pages of a mapping count as the process' own memory until the kernel wants them back.

    Raises:
        DataError: The file is not there, or no C-ordered .npy file of plain values.
    """
    with _opened(path) as (file, shape, dtype):
        buffer = np.empty((min(chunk, shape[0]), *shape[1:]), dtype)
        for first in range(0, shape[0], chunk):
            part = buffer[: min(chunk, shape[0] - first)]
            if part.size and file.readinto(part.data.cast("B")) != part.nbytes:
                raise DataError(f"{path} ends before its {shape[0]} rows", do="write it again")
            yield part


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BufferedReader, tuple[int, ...], np.dtype[Any]]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"there is no {path}", do="give a .npy file") from None
    with file:
        try:
            read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except ValueError as error:
            raise DataError(f"{path} is no .npy file: {error}", do="write it by numpy.save") from error
        if dtype.hasobject or not shape or (fortran and len(shape) > 1):
            raise DataError(f"{path} holds {dtype} of shape {shape}, fortran_order {fortran}", do="save numbers in C order, rows first")
        yield file, shape, dtype
