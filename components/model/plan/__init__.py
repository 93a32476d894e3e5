"""From a row to numbers: a plan in JSON turns mixed, incomplete columns into a float32 matrix, everywhere in the same way.

A plan is learned once, from training rows (`components.train.features.learn_plan`), kept in `model.json`, and executed by train,
evaluate and serving (`transform`). It says everything explicitly: executing one decides nothing. Shapes: N rows, D matrix columns.

`values` reads raw columns, `numeric` makes one number of a row, `coded` makes a code of a row and a code's columns, `matrix` puts
the columns side by side. A new operator is one more class with `names`, `width` and `read`, named in `matrix.Column`.
"""

from components.model.plan.coded import MISSING, OTHER, Bins, Category, Coded, Encoding, Joined
from components.model.plan.matrix import Column, Plan, Single, transform
from components.model.plan.numeric import DateForm, DatePart, Moment, Number, Numeric, Operation, Pair
from components.model.plan.values import Columns, Reader, as_number, as_time, columns_of, numbers, texts

__all__ = [
    "MISSING",
    "OTHER",
    "Bins",
    "Category",
    "Coded",
    "Column",
    "Columns",
    "DateForm",
    "DatePart",
    "Encoding",
    "Joined",
    "Moment",
    "Number",
    "Numeric",
    "Operation",
    "Pair",
    "Plan",
    "Reader",
    "Single",
    "as_number",
    "as_time",
    "columns_of",
    "numbers",
    "texts",
    "transform",
]
