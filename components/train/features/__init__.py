"""Feature operators: from training rows and a recipe's `features` to a plan that `components.model.plan` executes.

`options` is what a recipe may say, `kinds` decides what a declared feature really is, `numeric` and `coded` learn columns without
labels, `labels` those that need them, once a fold; `selection` keeps the best, `table` puts it all together for the learners,
`suspicious` warns of leaks.
"""

from components.train.features.options import Beside, Clean, Dates, Encoding, Features, Fill, Intervals, Log, Scale
from components.train.features.plans import learn_plan
from components.train.features.suspicious import suspicious
from components.train.features.table import Matrices, Table, folds_of, prepare

__all__ = [
    "Beside",
    "Clean",
    "Dates",
    "Encoding",
    "Features",
    "Fill",
    "Intervals",
    "Log",
    "Matrices",
    "Scale",
    "Table",
    "folds_of",
    "learn_plan",
    "prepare",
    "suspicious",
]
