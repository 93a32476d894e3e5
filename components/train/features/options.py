"""What a recipe may say about features. Every option stands by itself; any combination works."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.core.params import Frozen
from components.model.plan import Operation

__all__ = ["Beside", "Binned", "Clean", "Dates", "Encoding", "Features", "Fill", "Intervals", "Log", "Parse", "Scale"]

Clean = Literal["auto", "none"]
Parse = Literal["auto", "none"]
Dates = Literal["none", "numbers", "circle"]
Fill = Literal["none", "mean", "median"]
Log = Literal["none", "auto"]
Scale = Literal["none", "standard", "rank"]
Encoding = Literal["code", "onehot", "frequency", "target", "woe"]
Beside = Literal["none", "frequency", "target", "woe"]
Binned = Literal["onehot", "target", "woe"]
Intervals = Annotated[int, Field(ge=0, le=100)]


class Features(Frozen):
    """The recipe's `features` of a tabular learner; the defaults suit linear models and networks.

    `target` is the smoothed mean of the label for a category, in standard deviations from the overall mean; `woe` its weight of
    evidence, the logarithm of its odds over the overall odds (for a regression the same as `target`). Both are learned out of fold.

    Attributes:
        drop: Features left out.
        keep_best: Share of the columns that is kept, ranked anew for each fold by the gain that a few shallow trees draw from them.
        clean: `auto` leaves out what tells nothing: features without a value or with one only, copies of others, and texts that are
            different in nearly every row.
        parse: `auto` reads numbers and dates that stand in texts, and dates that stand in numbers, as such.
        dates: How a date becomes columns: days and year beside month, weekday and hour as numbers, or as points on a circle.
        fill: What stands for a missing number; `none` leaves it missing, which only trees can take.
        indicator: Whether a number with missing values gets a column that says so.
        log: `auto` takes the logarithm of numbers whose skewness is above 2.
        scale: Whether numbers are centred and scaled; `rank` maps their quantiles to those of a normal distribution.
        bins: Into how many intervals of equal count each number is cut, beside the number itself; 0: no such columns.
        binned: How an interval becomes columns.
        whole: A number with at most this many values, all of them whole, counts as a category as well; 0: none does.
        category: How categories become numbers.
        beside: A second encoding of categories.
        beside_from: Categories with fewer values have no second encoding.
        smoothing: How many rows of the overall mean are mixed into a category's.
        min_count: Values seen less often count as rare.
        max_values: At most this many values a category keep a code or a one-hot column of their own.
        pairs: Features that become a column together: two numbers by `operation`, others as a category of both.
        operation: What is done with two numbers.
    """

    drop: tuple[str, ...] = ()
    keep_best: float = Field(1.0, gt=0, le=1)
    clean: Clean = "auto"
    parse: Parse = "auto"
    dates: Dates = "circle"
    fill: Fill = "median"
    indicator: bool = True
    log: Log = "none"
    scale: Scale = "standard"
    bins: Intervals = 15
    binned: Binned = "woe"
    whole: int = Field(0, ge=0, le=100)
    category: Encoding = "onehot"
    beside: Beside = "none"
    beside_from: int = Field(2, ge=1)
    smoothing: float = Field(20.0, ge=0.01)
    min_count: int = Field(5, ge=1)
    max_values: int = Field(50, ge=1, le=1000)
    pairs: tuple[tuple[str, str], ...] = ()
    operation: Operation = "ratio"
