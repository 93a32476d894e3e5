"""Device watch: before a job (`preflight`), during it (`Monitor`), after it (`write_report`); `Prefetch` loads batches beside the step."""

from __future__ import annotations

from components.train.watch.alarms import Limits, Warned
from components.train.watch.devices import Counters, CpuCounters, Nvml, NvmlCounters, Reading, find_counters
from components.train.watch.memory import MemoryForecast, forecast_memory
from components.train.watch.monitor import Monitor, Sample, Watched
from components.train.watch.prediction import Cost, Prediction, overlapped_stall, predict, serial_stall
from components.train.watch.prefetch import Placer, Prefetch
from components.train.watch.preflight import Plan, Preflight, choose, prefetched, preflight, twice
from components.train.watch.report import write_report
from components.train.watch.rules import Advice, Facts, advise
from components.train.watch.syncs import Syncs, count_syncs

__all__ = [
    "Advice",
    "Cost",
    "Counters",
    "CpuCounters",
    "Facts",
    "Limits",
    "MemoryForecast",
    "Monitor",
    "Nvml",
    "NvmlCounters",
    "Placer",
    "Plan",
    "Prediction",
    "Prefetch",
    "Preflight",
    "Reading",
    "Sample",
    "Syncs",
    "Warned",
    "Watched",
    "advise",
    "choose",
    "count_syncs",
    "find_counters",
    "forecast_memory",
    "overlapped_stall",
    "predict",
    "prefetched",
    "preflight",
    "serial_stall",
    "twice",
    "write_report",
]
