"""One thread and deterministic kernels: equal inputs give equal bytes, in every process of a machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

__all__ = ["reproducible"]


@contextmanager
def reproducible() -> Iterator[None]:
    """Run the block with one thread in NumPy's, scikit-learn's and PyTorch's pools; restore them afterwards.

    Only libraries that are already imported are touched: import the learner first.
    """
    torch = sys.modules.get("torch")
    with import_module("threadpoolctl").threadpool_limits(limits=1):  # comes with scikit-learn; has no type stubs
        if torch is None:
            yield
            return
        threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(threads)
