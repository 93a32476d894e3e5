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
        # This setter, unlike `use_deterministic_algorithms`, does not import torch's compiler: 1 s and 100 MB.
        threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
        torch.set_num_threads(1)
        torch.set_deterministic_debug_mode("error")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)
            torch.set_num_threads(threads)
