"""The model format under attack: what is damaged, oversized or code is refused with a clear error, and the process survives."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.core.errors import DataError, IntegrityError
from components.core.params import Tabular, TextLine
from components.model import Member, load, save
from components.model import format as model_format
from components.model.lightgbm_text import check_trees
from components.model.runtime import scores_of_text
from components.model.text_line import Pixels, decode, pixels_of, posterior

_loader = SourceFileLoader("makers", str(Path(__file__).parents[1] / "makers.py"))
makers = module_from_spec(spec_from_loader("makers", _loader))  # type: ignore[arg-type]
_loader.exec_module(makers)

ROOT = Path(__file__).parents[2]
LOANS = makers.LOANS


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    (tmp_path / "reader").mkdir()
    return makers.reader(tmp_path / "reader")  # type: ignore[no-any-return]


@pytest.fixture
def scorer(tmp_path: Path) -> Path:
    (tmp_path / "scorer").mkdir()
    return makers.scorer(tmp_path / "scorer")  # type: ignore[no-any-return]


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and write down its new sha256: damage that no digest shows."""
    (folder / name).write_bytes(content)
    description = json.loads((folder / "model.json").read_text())
    description["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "model.json").write_text(json.dumps(description))


def change_description(folder: Path, **change: Any) -> None:
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, **change}))


def change_member(folder: Path, **change: Any) -> None:
    first, *others = json.loads((folder / "model.json").read_text())["members"]
    change_description(folder, members=[{**first, **change}, *others])


class TestDescription:
    def test_equal_models_have_equal_bytes(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            makers.reader(tmp_path / name)
        assert (tmp_path / "a/model.json").read_bytes() == (tmp_path / "b/model.json").read_bytes()
        assert (tmp_path / "a/member-0.onnx").read_bytes() == (tmp_path / "b/member-0.onnx").read_bytes()

    def test_says_what_it_takes_and_gives(self, reader: Path, scorer: Path) -> None:
        assert load(reader).signature["output"] == {"kind": "text", "alphabet": "0123456789", "max_length": 16}
        assert load(scorer).signature == {
            "inputs": {"income": "number", "grade": "category"},
            "output": {"kind": "class", "classes": ["paid", "default"]},
        }

    @pytest.mark.parametrize(
        "change",
        [
            {"format": 1},
            {"task": {"kind": "audio"}},
            {"unknown": 1},
            {"files": {}},
            {"members": []},
            {"signature": {"inputs": {}, "output": {}}},
        ],
    )
    def test_another_description_is_refused(self, reader: Path, change: dict[str, Any]) -> None:
        change_description(reader, **change)
        with pytest.raises(IntegrityError, match="train the model again"):
            load(reader)

    @pytest.mark.parametrize(
        "change",
        [
            {"runtime": "pickle"},
            {"runtime": "lightgbm"},
            {"preprocessing": {"height": "tall"}},
            {"preprocessing": {"module": "os.system"}},
            {"file": "../member-0.onnx"},
            {"file": "member-1.onnx"},
            {"file": "card.md"},
            {"weight": 0.5},
            {"weight": -1.0},
            {"folds": []},
            {"folds": [1, 1]},
            {"folds": [7]},
            {"unknown": 1},
        ],
    )
    def test_another_member_is_refused(self, reader: Path, change: dict[str, Any]) -> None:
        change_member(reader, **change)
        with pytest.raises(IntegrityError):
            load(reader)

    @pytest.mark.parametrize(
        "change",
        [
            {"folds": [19]},
            {"folds": [20, 0]},
            {"folds": [10, 11]},
            {"preprocessing": {"columns": [{"kind": "number", "name": "income"}]}},
            {"preprocessing": {"columns": [{"kind": "number", "name": "income"}, {"kind": "number", "name": "wealth"}]}},
            {"preprocessing": {"columns": [{"kind": "number", "name": "income"}, {"kind": "shell", "name": "grade"}]}},
            {"preprocessing": {"columns": []}},
        ],
    )
    def test_a_member_whose_parts_do_not_fit_is_refused(self, scorer: Path, change: dict[str, Any]) -> None:
        change_member(scorer, **change)
        with pytest.raises(IntegrityError):
            load(scorer)

    def test_none_and_one_that_is_no_json(self, reader: Path, tmp_path: Path) -> None:
        with pytest.raises(IntegrityError, match=r"model\.json"):
            load(tmp_path)
        (reader / "model.json").write_bytes(b"\x80\x04cos\nsystem\n")
        with pytest.raises(IntegrityError):
            load(reader)


class TestMembers:
    def members(self, tmp_path: Path, *weights: float) -> list[tuple[Member, bytes]]:
        """Return copies of one member; `scorer` wrote it."""
        folder = tmp_path / "one"
        folder.mkdir(exist_ok=True)
        (member,) = load(makers.scorer(folder)).spec.members
        content = (folder / member.file).read_bytes()
        return [(member.model_copy(update={"file": f"member-{n}.txt", "weight": weight}), content) for n, weight in enumerate(weights)]

    def saved(self, tmp_path: Path, members: list[tuple[Member, bytes]], task: Any = LOANS) -> Path:
        folder = tmp_path / "many"
        folder.mkdir()
        save(folder, task=task, members=members, recipe={}, card="")
        return folder

    def test_equal_members_answer_like_one(self, tmp_path: Path) -> None:
        model = load(self.saved(tmp_path, self.members(tmp_path, 0.1, 0.2, 0.7)))
        rows = makers.loans(20, seed=1)
        expected = [answer.confidence for answer in load(tmp_path / "one").predict(rows)]
        assert [answer.confidence for answer in model.predict(rows)] == pytest.approx(expected)
        assert sorted(model.spec.files) == ["card.md", "member-0.txt", "member-1.txt", "member-2.txt"]
        assert model.by_fold({name: [row[name] for row in rows] for name in LOANS.features}).shape == (3, 1, 20, 2)
        with pytest.raises(DataError, match="fold 1 was asked for, the model has 1"):
            model.fold({}, 1)

    def test_the_heaviest_member_names_the_learner(self, tmp_path: Path) -> None:
        members = self.members(tmp_path, 0.3, 0.4, 0.3)
        named = [(member.model_copy(update={"learner": f"l{n}"}), content) for n, (member, content) in enumerate(members)]
        assert load(self.saved(tmp_path, named)).spec.learner == "l1"

    def test_members_that_are_no_model(self, tmp_path: Path, reader: Path) -> None:
        first, second = self.members(tmp_path, 0.5, 0.5)
        other_folds = (second[0].model_copy(update={"folds": (10, 10)}), second[1])
        line = load(reader).spec.members[0]
        lines = [(line.model_copy(update={"file": f"member-{n}.onnx", "weight": 0.5}), b"") for n in range(2)]
        for members, task in (([first], LOANS), ([first, first], LOANS), ([first, other_folds], LOANS), (lines, TextLine()), ([], LOANS)):
            with pytest.raises(DataError, match="no model"):
                save(tmp_path, task=task, members=members, recipe={}, card="")

    def test_weights_are_rounded_at_most(self, tmp_path: Path) -> None:
        thirds = self.members(tmp_path, 1 / 3, 1 / 3, 1 / 3)
        folder = self.saved(tmp_path, thirds)
        assert load(folder)
        for off in (1e-6, -1e-6):
            change_member(folder, weight=1 / 3 + off)
            with pytest.raises(IntegrityError, match="sum to 1"):
                load(folder)

    def test_lines_have_no_columns(self, reader: Path) -> None:
        for call in (load(reader).probabilities, load(reader).by_fold):
            with pytest.raises(DataError, match="images"):
                call({})


class TestFiles:
    def test_wrong_sha256(self, reader: Path) -> None:
        content = bytearray((reader / "member-0.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (reader / "member-0.onnx").write_bytes(content)
        with pytest.raises(IntegrityError, match="sha256"):
            load(reader)

    @pytest.mark.parametrize("name", ["member-0.onnx", "card.md"])
    def test_missing(self, reader: Path, name: str) -> None:
        (reader / name).unlink()
        with pytest.raises(IntegrityError, match=name):
            load(reader)

    def test_oversized(self, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model_format, "MAX_DESCRIPTION_BYTES", 10)
        with pytest.raises(IntegrityError, match="10 bytes"):
            load(reader)

    def test_grown_after_it_was_written_down(self, reader: Path) -> None:
        with (reader / "member-0.onnx").open("ab") as file:
            file.truncate(1 << 33)  # a sparse file of 8 GiB: refused by its size, never read
        with pytest.raises(IntegrityError, match="8589934592 bytes"):
            load(reader)

    def test_saving_an_oversized_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model_format, "MAX_MODEL_BYTES", 10)
        with pytest.raises(DataError, match="at most 10"):
            makers.reader(tmp_path)

    def test_a_pickle_is_refused_and_not_run(self, reader: Path, tmp_path: Path) -> None:
        witness = tmp_path / "ran"
        rewrite(reader, "member-0.onnx", pickle.dumps(_Bomb(str(witness))))
        with pytest.raises(IntegrityError):
            load(reader)
        assert not witness.exists()

    def test_damaged_onnx(self, reader: Path) -> None:
        content = (reader / "member-0.onnx").read_bytes()
        for cut in (0, 10, len(content) // 2):
            rewrite(reader, "member-0.onnx", content[:cut])
            with pytest.raises(IntegrityError):
                load(reader)

    def test_onnx_that_points_to_another_file(self, reader: Path) -> None:
        onnx = pytest.importorskip("onnx")
        model = onnx.load(str(reader / "member-0.onnx"))
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../etc/passwd")
        rewrite(reader, "member-0.onnx", model.SerializeToString())
        with pytest.raises(IntegrityError, match="other files"):
            load(reader)


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.path, "w")


class TestLightGbmText:
    def test_a_single_row_takes_a_faster_way_to_the_same_answer(self, scorer: Path) -> None:
        model, rows = load(scorer), makers.loans(30, seed=9)
        alone = [model.predict([row])[0] for row in rows]
        assert alone == model.predict(rows)
        many = model.predict(rows * 3)  # another way for many rows, which must not disturb the next single one
        assert [answer.confidence for answer in many[:30]] == pytest.approx([answer.confidence for answer in alone], rel=1e-12)
        assert [model.predict([row])[0] for row in rows] == alone
        columns = {name: [row[name] for row in rows] for name in LOANS.features}
        assert model.fold(columns, 0)[0] == pytest.approx(model.probabilities(columns), rel=1e-12)
        assert [model.predict([row])[0] for row in rows] == alone

    @pytest.mark.parametrize(
        "objective", ["lambdarank", "binary sigmoid:x", "regression sqrt", "multiclassova num_class:3", "binary sigmoid:1 "]
    )
    def test_an_objective_that_is_not_known_is_refused(self, scorer: Path, objective: str) -> None:
        text = (scorer / "member-0.txt").read_text().replace("objective=binary sigmoid:1\n", f"objective={objective}\n")
        rewrite(scorer, "member-0.txt", text.encode())
        with pytest.raises(IntegrityError, match="objective"):
            load(scorer)

    def test_scores_of_a_text_just_made(self, scorer: Path) -> None:
        x = np.array([[20.0, 4.0], [np.nan, 2.0], [80.0, 0.0]], dtype=np.float32)
        import lightgbm

        expected = np.asarray(lightgbm.Booster(model_file=str(scorer / "member-0.txt")).predict(x))
        assert scores_of_text((scorer / "member-0.txt").read_bytes())(x) == pytest.approx(expected, rel=1e-12)

    def test_threads_do_not_disturb_each_other(self, scorer: Path) -> None:
        model, draw = load(scorer), np.random.default_rng(0)
        tables = [{"income": draw.normal(50, 20, count), "grade": draw.choice(list("ABC"), count).tolist()} for count in (1, 300) * 20]
        expected = [model.probabilities(table) for table in tables]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                assert all(map(np.array_equal, pool.map(model.probabilities, tables), expected))

    def test_answers_like_the_booster(self, scorer: Path) -> None:
        import lightgbm

        rows = makers.loans(50, seed=9)
        x = np.array([[row["income"], "ABC".index(row["grade"]) + 2] for row in rows], dtype=np.float32)
        expected = lightgbm.Booster(model_file=str(scorer / "member-0.txt")).predict(x)
        assert [(a.scores or {})["default"] for a in load(scorer).predict(rows)] == pytest.approx(expected.tolist(), rel=1e-12)

    def test_damage_never_ends_the_process(self, scorer: Path) -> None:
        """Cut, deleted, overwritten and inserted bytes: an IntegrityError, or a model that answers; never an abort, never a hang."""
        content = (scorer / "member-0.txt").read_bytes()
        draw = random.Random(0)
        rows = makers.loans(20, seed=3)
        refused = 0
        for kind in itertools.islice(itertools.cycle(range(5)), 150):
            damaged, at = bytearray(content), draw.randrange(len(content))
            if kind == 0:
                del damaged[at:]
            elif kind == 1:
                del damaged[at : at + draw.randrange(1, 60)]
            elif kind == 2:
                damaged[at] = draw.randrange(32, 127)
            elif kind == 3:
                damaged[at:at] = b" 99999 "
            else:
                damaged[at : at + 1] = bytes([draw.randrange(256)])
            rewrite(scorer, "member-0.txt", bytes(damaged))
            try:
                answers = load(scorer).predict(rows)
            except IntegrityError:
                refused += 1
            else:
                assert len(answers) == 20
        assert refused > 75

    @pytest.mark.parametrize(
        ("field", "value"),
        [("left_child", "0"), ("right_child", "99999"), ("split_feature", "7"), ("leaf_value", "nine"), ("num_leaves", "100000")],
    )
    def test_a_tree_that_is_none(self, scorer: Path, field: str, value: str) -> None:
        lines = (scorer / "member-0.txt").read_text().split("\n")
        index = next(i for i, line in enumerate(lines) if line.startswith(f"{field}="))
        given = lines[index].split("=")[1].split()
        lines[index] = f"{field}={' '.join([value, *given[1:]])}"
        with pytest.raises(IntegrityError):
            check_trees("\n".join(lines).encode())


class TestImages:
    @pytest.mark.parametrize(
        "image",
        [
            *(b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 half a jpeg"),
            *(makers.line("123")[:60], makers.line("123")[:-20]),
            *(None, "text"),
        ],
    )
    def test_a_corrupt_image_is_a_data_error(self, reader: Path, image: Any) -> None:
        model = load(reader)
        for call in (lambda: model.check({"image": image}), lambda: model.predict([{"image": makers.line("1")}, {"image": image}])):
            with pytest.raises(DataError, match="image"):
                call()

    def test_another_format_is_refused(self) -> None:
        file = io.BytesIO()
        Image.new("L", (8, 8)).save(file, "GIF")
        with pytest.raises(DataError, match="decoded"):
            pixels_of(file.getvalue(), Pixels())

    def test_a_bomb_of_pixels_is_refused_before_it_is_decoded(self) -> None:
        file = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(file, "PNG")
        with pytest.raises(DataError, match=r"pixels|bomb"):
            pixels_of(file.getvalue(), Pixels())

    def test_ink_is_one_whatever_the_paper(self) -> None:
        dark = np.zeros((16, 40), np.uint8)
        dark[4:12, 10:14] = 200
        images = []
        for grey, kind in ((dark, "PNG"), (255 - dark, "PNG")):
            file = io.BytesIO()
            Image.fromarray(grey).save(file, kind)
            images.append(pixels_of(file.getvalue(), Pixels()))
        assert images[0].shape == (16, 40)
        assert np.allclose(images[0], images[1], atol=1e-6)
        assert [float(images[0].min()), float(images[0].max())] == pytest.approx([0.0, 1.0])

    def test_an_answer_does_not_depend_on_the_batch(self, reader: Path) -> None:
        model = load(reader)
        rows = [{"image": makers.line(text)} for text in ("1", "20", "333", "4567", "11", "890")]
        assert [a.label for a in model.predict(rows)] == ["1", "20", "333", "4567", "11", "890"]
        assert [a.confidence for a in model.predict(rows)] == pytest.approx([model.predict([row])[0].confidence for row in rows], abs=1e-6)


class TestDecoding:
    def test_repeats_collapse_and_blanks_separate(self) -> None:
        path = [0, 1, 1, 0, 1, 2, 2, 0]
        log = np.log(np.full((1, len(path), 3), 0.05) + 0.85 * np.eye(3)[path][None])
        assert decode(log) == [[1, 1, 2]]

    def test_the_posterior_is_the_sum_over_all_alignments(self) -> None:
        draw = np.random.default_rng(0)
        p = draw.dirichlet(np.ones(3), size=(2, 5))
        for text in ([], [1], [1, 1], [2, 1], [1, 2, 1]):
            expected = [
                sum(
                    np.prod([p[n, t, s] for t, s in enumerate(path)])
                    for path in itertools.product(range(3), repeat=5)
                    if decode(np.eye(3)[list(path)][None]) == [text]
                )
                for n in range(2)
            ]
            assert posterior(np.log(p), [text, text]) == pytest.approx(expected)

    def test_texts_of_different_lengths_in_one_batch(self) -> None:
        p = np.random.default_rng(1).dirichlet(np.ones(4), size=(3, 6))
        texts = [[], [1, 2, 3], [2]]
        one_by_one = [float(posterior(np.log(p[n : n + 1]), [text])[0]) for n, text in enumerate(texts)]
        assert posterior(np.log(p), texts) == pytest.approx(one_by_one)


def test_predicting_imports_only_what_the_model_needs(reader: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "import components.model; assert not {'onnxruntime', 'lightgbm'} & set(sys.modules)\n"
        "components.model.load(Path(sys.argv[1]))\n"
        "assert not {'torch', 'sklearn', 'lightgbm', 'pandas', 'optuna'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(reader)], check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})


def test_a_description_holds_plain_json_only(tmp_path: Path) -> None:
    member = Member(learner="x", runtime="onnx", file="member-0.onnx", weight=1.0, folds=(1,), preprocessing={"a": float("nan")})
    with pytest.raises((TypeError, ValueError)):
        save(tmp_path, task=TextLine(), members=[(member, b"")], recipe={}, card="")
    assert not list(tmp_path.iterdir())


def test_features_are_checked(scorer: Path) -> None:
    model = load(scorer)
    assert isinstance(model.task, Tabular)
    for row in ({"income": 1.0}, {"income": "much", "grade": "A"}, {"income": 1.0, "grade": 3}, {"income": True, "grade": "A"}):
        with pytest.raises(DataError):
            model.check(row)
    model.check({"income": None, "grade": None})
    assert model.predict([{"income": None, "grade": "unseen"}])[0].label in ("paid", "default")
