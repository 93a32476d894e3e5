"""Who proposes the next trial. Every sampler here is made anew for each trial from (seed, trial's place in the search), so a search
that was killed and resumed asks the same questions as one that was not.
"""

from __future__ import annotations

from components.automl.genesis.samplers.random import uniform
from components.automl.genesis.samplers.rgpe import alone, rgpe
from components.automl.genesis.samplers.tpe import tpe

__all__ = ["alone", "rgpe", "tpe", "uniform"]
