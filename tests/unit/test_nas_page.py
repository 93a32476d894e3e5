"""What a reader relies on in the page of an architecture search."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from html import escape
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from components.automl.nas.budget import Limits, cost
from components.automl.nas.page import page
from components.automl.nas.searched import Judged, Searched, front
from components.train.spaces import SPACES, space
from components.train.spaces.geometry import geometry
from components.train.spaces.space import Architecture, Space

_loader = SourceFileLoader("well_formed", str(Path(__file__).parents[1] / "well_formed.py"))
_module = module_from_spec(spec_from_loader("well_formed", _loader))  # type: ignore[arg-type]
_loader.exec_module(_module)
WellFormed = _module.WellFormed

INPUTS = {"mobilenet": (3, 16, 16), "resnet": (3, 16, 16), "recognizer": (1, 24, 50)}
ALL = {name: space(name, INPUTS[name], 7) for name in sorted(SPACES)}
EVIL = "<script>alert('x')</script> & \"y\""


def search(whole: Space = ALL["mobilenet"], count: int = 14, *, alone: int = 0, **given: Any) -> Searched:
    """A search that judged some architectures by a made-up score that grows with MACs, and found the third best."""
    rng, most = random.Random(3), cost(whole, whole.largest()).macs
    costs = {each: cost(whole, each) for each in [whole.smallest(), *(whole.sample(rng) for _ in range(count - 1))]}
    scores = {each: 0.6 + 0.3 * spent.macs / most + rng.uniform(0, 0.05) for each, spent in costs.items()}
    order = sorted(scores, key=lambda each: -scores[each])
    judged = tuple(
        Judged(each, costs[each], scores[each], scores[each] + 0.02 * (-1) ** n if n < alone else None) for n, each in enumerate(order)
    )
    found = judged[min(2, count - 1)]
    learned = ((30.0, 0.5), (60.0, 0.7), (95.5, found.inherited))
    usual = Searched(whole, "evolutionary", Limits(), found, judged, learned, supernet_s=1200.0, search_s=34.0)
    return replace(usual, **given)


def section(text: str, heading: str) -> str:
    return text.partition(f"<h2>{heading}")[2].partition("</section>")[0]


def header(text: str) -> str:
    return WellFormed(text.partition("<body>")[2].partition("<main>")[0]).text


def stairs(text: str, title: str) -> list[list[float]]:
    """The corners of the step line of this title."""
    found = re.search(rf"<polyline class='best' points='([^']*)'><title>{title}", text)
    assert found is not None
    return [[float(value) for value in corner.split(",")] for corner in found[1].split()]


@pytest.mark.parametrize("name", sorted(ALL))
class TestEverySpace:
    def test_the_page_is_well_formed_and_stands_alone(self, name: str) -> None:
        text = page(search(ALL[name], alone=6), title=name)
        read = WellFormed(text)
        assert {"svg", "table", "h1"} <= read.tags
        assert not read.tags & {"script", "link", "iframe", "img"}
        assert read.links == []
        assert not re.search(r"@import|url\(|https?:", text)

    def test_the_found_network_is_drawn_with_its_sizes(self, name: str) -> None:
        done = search(ALL[name])
        drawn = section(page(done, title=name), "The network found")
        shape = geometry(done.space, done.found.architecture)
        kept = [block for block in shape.blocks if not block.skip]
        assert drawn.count("class='layer block'") == len(kept)
        assert drawn.count("class='layer skipped'") == len(shape.blocks) - len(kept)
        assert drawn.count("class='gate'") == sum(bool(block.gate) for block in kept)
        for block in kept:
            plain, kernel = block.kind == "plain", f"{block.kernel} × {block.kernel}"
            assert (f">conv {kernel}<" if plain else f">{kernel}, expansion ") in drawn
            assert (f">{block.inputs} → {block.outputs}" if plain else f">inner width {block.hidden}") in drawn
        assert f"{shape.head.inputs} channels, {shape.head.rows} × {shape.head.columns}" in drawn
        assert f"<title>The network {done.space.describe(done.found.architecture)}</title>" in drawn


def test_the_header_says_what_was_found_and_what_it_cost() -> None:
    done = search(sample_s=3.5)
    text = header(page(done, title="digits"))
    assert done.space.describe(done.found.architecture) in text
    assert f"{done.found.cost.params:,} parameters" in text
    assert f"inherited score {done.found.inherited:.4f}" in text
    assert "no limit was given" in text
    assert "It began from nothing and cost 1,238 s of CPU: supernet 1,200 s, search 34 s and sample 3.5 s." in text


def test_the_header_says_how_much_of_each_limit_is_used() -> None:
    spent = replace(search().found.cost, params=50_000, macs=3_000_000, latency_ms=1.5)
    found = replace(search().found, cost=spent)
    text = header(page(search(found=found, limits=Limits(100_000, 4_000_000, 2.0)), title="digits"))
    assert "uses 50 % of the limit of parameters, 75 % of the limit of MACs and 75 % of the limit of latency" in text
    assert "75 % of the limit 2 ms" in text


def test_a_limit_nearly_reached_is_not_called_reached() -> None:
    done = search()
    text = header(page(replace(done, limits=Limits(max_params=done.found.cost.params + 1)), title="digits"))
    assert "99 % of the limit of parameters" in text


def test_latency_is_shown_only_where_it_was_measured() -> None:
    done = search()
    text = page(done, title="digits")
    assert "latency" not in header(text)
    assert section(text, "The best of").count("<td class='n'>—</td>") == 2 * 10  # neither latency nor a score alone
    timed = replace(done.found, cost=replace(done.found.cost, latency_ms=1.25))
    assert "1.25 ms latency" in header(page(replace(done, found=timed), title="digits"))


def test_the_earlier_search_is_named() -> None:
    assert "It went on from the supernet of run 12 and cost" in header(page(search(start="run 12"), title="digits"))


def test_the_front_is_a_line_of_steps_through_its_members() -> None:
    done = search(count=30)
    best = front(done.judged)
    assert len(best) > 3
    shown = section(page(done, title="digits"), "Score and cost")
    corners = stairs(shown, f"Pareto front: {len(best)} architectures")
    assert len(corners) == 2 * len(best)  # a corner between two members, and the end of the axis
    assert corners == sorted(corners, key=lambda corner: (corner[0], -corner[1]))
    assert shown.count("class='job'") == 30
    assert shown.count("class='ring'") == 1
    assert f"in both MACs and score: {len(best)} of 30." in shown


def test_the_limit_of_macs_is_a_line_in_view() -> None:
    assert "class='limit'" not in page(search(limits=Limits(max_params=10**6)), title="digits")
    shown = section(page(search(limits=Limits(max_macs=10**9)), title="digits"), "Score and cost")
    assert "<title>limit: 1000</title>" in shown
    assert "the limit of 1000 M MACs" in shown


def test_the_ranking_is_shown_where_it_was_measured() -> None:
    done = search(alone=6)
    shown = section(page(done, title="digits"), "Do inherited weights")
    assert f"<b>{done.tau:.2f}</b> over 6 architectures" in shown
    assert shown.count("class='job'") == 6
    assert "automl.nas.sample" not in shown


@pytest.mark.parametrize(("alone", "why"), [(0, "no architecture was trained alone"), (2, "only 2 were trained alone")])
def test_an_unmeasured_ranking_says_what_measures_it(alone: int, why: str) -> None:
    shown = section(page(search(alone=alone), title="digits"), "Do inherited weights")
    assert why in shown
    assert "automl.nas.sample: 6" in shown
    assert "<svg" not in shown


def test_the_best_score_is_drawn_over_time() -> None:
    done = search()
    assert len(stairs(section(page(done, title="digits"), "How the search went"), "the best so far")) == 6
    assert "How the search went" not in page(replace(done, learned=()), title="digits")


def test_the_ten_best_are_listed_and_the_found_one_is_marked() -> None:
    done = search(count=14, alone=1)
    lines = section(page(done, title="digits"), "The best of 14 judged").split("<tr")[2:]
    assert len(lines) == 10
    assert [done.space.describe(each.architecture) in line for each, line in zip(done.judged, lines, strict=False)] == [True] * 10
    assert ["<i>found</i>" in line for line in lines] == [n == 2 for n in range(10)]
    assert f"<td class='n'>{done.judged[0].alone:.4f}</td>" in lines[0]
    assert "<td class='n'>—</td>" in lines[1]


def test_one_judged_architecture_is_enough() -> None:
    text = page(search(count=1, learned=((5.0, 0.7),)), title="digits")
    WellFormed(text)
    assert len(stairs(text, "Pareto front: 1 architecture")) == 2
    assert "nan" not in text


def test_a_skipped_block_is_marked_and_has_no_size() -> None:
    whole = ALL["resnet"]
    found = Architecture(0, tuple(len(block.options) - 1 for block in whole.blocks))
    judged = Judged(found, cost(whole, found), 0.8)
    drawn = section(page(search(whole, found=judged, judged=(judged,)), title="digits"), "The network found")
    assert drawn.count(">skipped</text>") == sum(stage.blocks - 1 for stage in whole.stages)
    assert drawn.count("inner width") == 2 * len(whole.stages)  # in the box and in its tooltip


def test_the_head_of_a_line_space_is_recurrent() -> None:
    drawn = section(page(search(ALL["recognizer"]), title="digits"), "The network found")
    assert "bidirectional GRU" in drawn
    assert "7 symbols" in drawn
    assert "any number of columns" in drawn
    assert "bidirectional GRU" not in page(search(), title="digits")


def test_texts_are_escaped() -> None:
    whole = replace(ALL["mobilenet"], name=EVIL)
    text = page(search(whole, strategy=EVIL, start=EVIL, notes=(EVIL, "seed 3")), title=EVIL)
    read = WellFormed(text)
    assert "script" not in read.tags
    assert text.count(escape(EVIL)) == text.count("alert(") == 7
    assert "<li>seed 3</li>" in section(text, "Good to know")
