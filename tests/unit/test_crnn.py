"""What is the line reader's own: its one fold, samples of lines, training without lines to judge by."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from components.core.errors import DataError
from components.core.params import TextLine
from components.ingest.readers.digits import compose
from components.train.data import Data, Rows
from components.train.learners import learner, never
from components.train.validation import Validation

TINY = {"epochs": 3, "channels": 4, "hidden": 16, "batch": 16}


@cache
def data() -> Data:
    table = compose(0, 50, 60, length=(1, 2))
    images, labels = table["image"].to_pylist(), table["_label"].to_pylist()

    def rows(first: int, last: int) -> Rows:
        return Rows({"image": images[first:last]}, labels[first:last], {}, [f"{n:04d}" for n in range(first, last)])

    return Data(TextLine(), rows(0, 45), rows(45, 60))


def prepared(given: Data) -> Any:
    crnn = learner("crnn")
    return crnn.prepare(given, crnn.features(), Validation(kind="holdout", folds=1))


def test_a_sample_has_the_same_lines_when_others_join() -> None:
    first = Rows({"image": data().train.columns["image"][:30]}, data().train.labels[:30], {}, data().train.keys[:30])
    few = prepared(replace(data(), train=first))
    small, large = few.part(0, 10), prepared(data()).part(0, 10)
    assert len(small.learned) == len(large.learned) == 10
    assert len(prepared(data()).part(0, 1000).learned) == len(prepared(data()).part(0).learned) == 45
    of_few = {image.tobytes() for image, _ in small.learned}
    assert {image.tobytes() for image, _ in large.learned if image.tobytes() in {i.tobytes() for i, _ in few.part(0).learned}} <= of_few


def test_without_lines_to_judge_by_the_last_epoch_is_kept() -> None:
    crnn, none = learner("crnn"), Rows({"image": []}, [])
    part = prepared(replace(data(), validation=none)).part(0)
    trained = crnn.fit(part, crnn.params(**TINY), seed=0, progress=never)
    assert trained.rounds == 3
    assert [sorted(line) for line in trained.log] == [["epoch", "loss"]] * 3


def test_texts_that_are_longer_than_their_lines() -> None:
    train = replace(data().train, labels=["0" * 16] * 45)
    with pytest.raises(DataError, match="no training line is long enough"):
        prepared(replace(data(), train=train)).part(0)
