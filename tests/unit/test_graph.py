"""Graphs in one process: the map of ids, relabelling, partitions, files, sampling, GraphSAGE's layers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ConfigError, DataError, IntegrityError
from components.train.graph.choosing import choose
from components.train.graph.files import NodeData, Partition, read_partition, write_partitions
from components.train.graph.hashing import key, mix
from components.train.graph.ids import IdMap
from components.train.graph.partition import PARTITIONERS, Metis, balance, edge_cut, partitioner
from components.train.graph.planted import planted_partition
from components.train.graph.prefetch import prefetched
from components.train.graph.relabel import Relabelled, read_relabelled, relabel
from components.train.graph.sage import AttentionSage, Edges, GraphSage, MeanSage
from components.train.graph.sampler import ALL, Sampler, drawn_neighbours

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=9)


def saved(path: Path, array: Any) -> Path:
    np.save(path, np.asarray(array), allow_pickle=False)
    return path


def relabelled(folder: Path, owner: Any, edges: Any, parts: int, **how: int) -> Relabelled:
    folder.mkdir(parents=True, exist_ok=True)
    edges = np.asarray(edges, np.int64).reshape(-1, 2)
    return relabel(saved(folder / "owner.npy", owner), saved(folder / "pairs.npy", edges), folder / "graph", parts, **how)


def written(folder: Path, owner: Any, edges: Any, data: NodeData, parts: int) -> list[Partition]:
    write_partitions(relabelled(folder, owner, edges, parts), data, folder / "parts")
    return [read_partition(folder / "parts", part) for part in range(parts)]


def some_data(nodes: int, features: int = 3) -> NodeData:
    numbers = np.arange(nodes)
    return NodeData(np.outer(numbers, np.arange(1, features + 1)).astype(np.float32), numbers % 2, (numbers % 3).astype(np.uint8), 2)


class TestIdMap:
    @given(sizes)
    def test_every_place_has_one_id_and_the_way_back(self, counts: list[int]) -> None:
        ids = IdMap.of(counts)
        partition = np.repeat(np.arange(len(counts)), counts)
        local = np.concatenate([np.arange(count) for count in counts])
        found = ids.join(partition, local)
        assert len(np.unique(found)) == ids.total == sum(counts)
        back = ids.split(found)
        assert np.array_equal(back[0], partition)
        assert np.array_equal(back[1], local)
        assert np.array_equal(ids.place(found), np.arange(ids.total))
        assert np.array_equal(ids.at(np.arange(ids.total)), found)
        ids.check(found)

    @given(sizes, st.data())
    def test_what_is_no_id_is_refused(self, counts: list[int], data: st.DataObject) -> None:
        ids = IdMap.of(counts)
        known = set(ids.at(np.arange(ids.total)).tolist())
        number = data.draw(st.integers(-5, (len(counts) << ids.bits) + 5))
        if number in known:
            ids.check(np.array([number]))
        else:
            with pytest.raises(DataError, match="local id"):
                ids.check(np.array([number]))

    def test_buffers_of_the_caller_are_used(self) -> None:
        ids = IdMap.of([100_000, 3])
        asked = ids.at(np.arange(ids.total))
        partition, local = np.empty_like(asked), np.empty_like(asked)
        found = ids.split(asked, partition, local)
        assert found[0] is partition
        assert found[1] is local
        assert (partition[-1], local[-1], local[99_999]) == (1, 2, 99_999)

    def test_a_thousand_million_ids_take_16_bytes_a_partition(self) -> None:
        assert IdMap.of([1_000_000_000 // 1024] * 1024).nbytes < 17_000

    @pytest.mark.parametrize("counts", [[], [3, -1], [1 << 62, 1, 1, 1]])
    def test_partitions_that_can_not_be(self, counts: list[int]) -> None:
        with pytest.raises(DataError):
            IdMap.of(counts)

    def test_join_refuses_a_local_id_that_would_alias_another_partition(self) -> None:
        with pytest.raises(DataError, match="local id 4 of partition 0"):
            IdMap.of([4, 4]).join(np.array([0]), np.array([4]))


class TestRelabelling:
    @settings(deadline=None, max_examples=25)
    @given(st.data(), st.integers(1, 4), st.integers(1, 7), st.integers(8, 64))
    def test_equals_a_dense_oracle(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, parts: int, chunk: int, window: int
    ) -> None:
        nodes = data.draw(st.integers(parts, 20))
        owner = np.array(data.draw(st.lists(st.integers(0, parts - 1), min_size=nodes, max_size=nodes)))
        node = st.integers(0, nodes - 1)
        edges = np.array(data.draw(st.lists(st.tuples(node, node), max_size=30)), np.int64).reshape(-1, 2)
        graph = relabelled(tmp_path_factory.mktemp("graph"), owner, edges, parts, chunk=chunk, window=window)

        new = np.load(graph.folder / "nodes.npy")
        expected = {int(n): (int(owner[n]), int((owner[:n] == owner[n]).sum())) for n in range(nodes)}
        assert dict(enumerate(zip(*map(np.ndarray.tolist, graph.nodes.split(new)), strict=True))) == expected
        edge_partition, edge_row = graph.edges.split(np.load(graph.folder / "edge_ids.npy"))
        files = [np.load(graph.folder / "edges" / f"{part:05d}.npy") for part in range(parts)]
        assert [len(file) for file in files] == graph.edges.counts.tolist()
        for number, pair in enumerate(edges):
            assert edge_partition[number] == owner[pair[1]]
            assert np.array_equal(files[edge_partition[number]][edge_row[number]], new[pair])
        for part in range(parts):
            assert np.array_equal(np.load(graph.folder / "original" / f"{part:05d}.npy"), np.flatnonzero(owner == part))
        again = read_relabelled(graph.folder)
        assert np.array_equal(again.nodes.counts, graph.nodes.counts)
        assert np.array_equal(again.edges.counts, graph.edges.counts)

    @pytest.mark.parametrize(
        ("owner", "edges", "parts", "message"),
        [
            ([0, 1], [[0, 2]], 2, "node numbers from 0 to 2"),
            ([0, 1], [[-1, 0]], 2, "node numbers from -1"),
            ([0, 2], [[0, 1]], 2, "partition numbers from 0 to 2"),
            ([0, -1], [[0, 1]], 2, "partition numbers from -1"),
            ([0, 1], [[0, 1]], 3, "3 partitions for 2 nodes"),
            (np.empty(0, np.int64), [], 1, "no nodes"),
            ([0.0, 1.0], [[0, 1]], 2, "one integer for each node"),
        ],
    )
    def test_bad_input_leaves_nothing_behind(self, tmp_path: Path, owner: Any, edges: Any, parts: int, message: str) -> None:
        with pytest.raises(DataError, match=message):
            relabelled(tmp_path, owner, edges, parts)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["owner.npy", "pairs.npy"]

    def test_edges_of_a_wrong_shape_and_files_that_are_none(self, tmp_path: Path) -> None:
        owner = saved(tmp_path / "owner.npy", [0, 0])
        with pytest.raises(DataError, match="two integers"):
            relabel(owner, saved(tmp_path / "three.npy", np.zeros((2, 3), np.int64)), tmp_path / "graph", 1)
        with pytest.raises(DataError, match="there is no"):
            relabel(owner, tmp_path / "none.npy", tmp_path / "graph", 1)
        (tmp_path / "text.npy").write_text("no array")
        with pytest.raises(DataError, match=r"no \.npy file"):
            relabel(owner, tmp_path / "text.npy", tmp_path / "graph", 1)

    def test_a_whole_folder_is_never_written_over(self, tmp_path: Path) -> None:
        relabelled(tmp_path, [0, 1], [[0, 1]], 2)
        with pytest.raises(DataError, match="exists already"):
            relabelled(tmp_path, [0, 1], [[0, 1]], 2)


class TestPartitioners:
    @pytest.mark.parametrize("name", sorted(PARTITIONERS))
    def test_each_gives_every_node_a_partition_the_same_one_again(self, name: str) -> None:
        edges, _ = planted_partition(300, 4)
        owner = partitioner(name, 1)(edges, 300, 4)
        assert owner.shape == (300,)
        assert set(owner.tolist()) == {0, 1, 2, 3}
        assert balance(owner, 4) < 1.35
        assert np.array_equal(owner, partitioner(name, 1)(edges, 300, 4))

    def test_metis_finds_the_communities_that_a_hash_cuts_through(self) -> None:
        edges, _ = planted_partition(2000, 4, inside=0.9)
        cut = {name: edge_cut(edges, partitioner(name)(edges, 2000, 4)) for name in PARTITIONERS}
        assert cut["metis"] < 0.2
        assert cut["metis"] < 0.4 * cut["hash"]
        assert cut["hash"] == pytest.approx(0.75, abs=0.05)
        assert cut["range"] == pytest.approx(0.75, abs=0.05)

    @pytest.mark.parametrize("name", sorted(PARTITIONERS))
    @pytest.mark.parametrize(
        ("edges", "nodes", "parts", "message"),
        [
            ([[0, 5]], 3, 2, "nodes from 0 to 5"),
            ([[-1, 1]], 3, 2, "nodes from -1"),
            ([[0, 1]], 0, 1, "no nodes"),
            ([[0, 1]], 2, 3, "3 partitions for 2 nodes"),
            ([[0, 1]], 2, 0, "0 partitions"),
        ],
    )
    def test_bad_input(self, name: str, edges: list[list[int]], nodes: int, parts: int, message: str) -> None:
        with pytest.raises(DataError, match=message):
            partitioner(name)(np.array(edges), nodes, parts)

    def test_without_edges_and_with_loops(self) -> None:
        assert set(Metis()(np.empty((0, 2), np.int64), 4, 2).tolist()) == {0, 1}
        assert Metis()(np.array([[0, 0], [0, 1], [0, 1]]), 2, 1).tolist() == [0, 0]
        assert edge_cut(np.empty((0, 2), np.int64), np.array([0, 1])) == 0.0

    def test_an_unknown_name(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'metis'"):
            partitioner("metiss")


class TestFiles:
    @settings(deadline=None, max_examples=15)
    @given(st.data(), st.integers(1, 4))
    def test_partitions_hold_the_graph_and_its_data(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, parts: int
    ) -> None:
        nodes = data.draw(st.integers(parts, 15))
        owner = np.array(data.draw(st.lists(st.integers(0, parts - 1), min_size=nodes, max_size=nodes)))
        node = st.integers(0, nodes - 1)
        edges = np.array(data.draw(st.lists(st.tuples(node, node), max_size=40)), np.int64).reshape(-1, 2)
        known = some_data(nodes)
        all_parts = written(tmp_path_factory.mktemp("graph"), owner, edges, known, parts)

        original = np.concatenate([part.original for part in all_parts])  # by place
        found = []
        for part in all_parts:
            assert np.array_equal(part.features, known.features[part.original])
            assert np.array_equal(part.labels, known.labels[part.original])
            assert np.array_equal(part.split, known.split[part.original])
            part.ids.check(part.indices)
            targets = np.repeat(np.arange(len(part)), np.diff(part.indptr))
            sources = original[part.ids.place(part.indices)]
            found += list(zip(sources.tolist(), part.original[targets].tolist(), strict=True))
            remote = {int(i) for i in part.indices if i >> part.ids.bits != part.number}
            assert part.halo.tolist() == sorted(remote)
            assert sorted(part.edge_rows.tolist()) == list(range(len(part.indices)))
        assert Counter(found) == Counter(map(tuple, edges.tolist()))

    def test_data_that_does_not_fit(self, tmp_path: Path) -> None:
        graph, good = relabelled(tmp_path, [0, 0, 1], [[0, 1]], 2), some_data(3)
        for bad, message in [
            (NodeData(good.features[:2], good.labels, good.split, 2), "features have the shape"),
            (NodeData(good.features.astype(np.int64), good.labels, good.split, 2), "float32 or float64"),
            (NodeData(good.features, good.labels + 1, good.split, 2), "labels from 1 to 2"),
            (NodeData(good.features, good.labels, good.split + np.uint8(2), 2), "split from 2 to 4"),
        ]:
            with pytest.raises(DataError, match=message):
                write_partitions(graph, bad, tmp_path / "parts")
        assert not (tmp_path / "parts").exists()

    def test_a_damaged_or_unfinished_folder_is_refused(self, tmp_path: Path) -> None:
        written(tmp_path, [0, 1], [[0, 1]], some_data(2), 2)
        with pytest.raises(DataError, match="no partition 2"):
            read_partition(tmp_path / "parts", 2)
        with pytest.raises(DataError, match="holds relabelled graph"):
            read_partition(tmp_path / "graph", 0)
        path = tmp_path / "parts" / "00001" / "features.npy"
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(IntegrityError, match="is not the file"):
            read_partition(tmp_path / "parts", 0)
        (tmp_path / "parts" / "manifest.json").write_text(json.dumps({"kind": "partitioned graph"}))
        with pytest.raises(IntegrityError, match="can't be read"):
            read_partition(tmp_path / "parts", 0)
        (tmp_path / "parts" / "manifest.json").unlink()
        with pytest.raises(DataError, match="has no manifest"):
            read_partition(tmp_path / "parts", 0)


class TestSampler:
    @pytest.fixture
    def partition(self, tmp_path: Path) -> Partition:
        edges, data = planted_partition(400, 4, degree=14)
        return written(tmp_path, np.zeros(400, np.int64), edges, data, 1)[0]

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.integers(7, 60), min_size=1, max_size=30), st.integers(1, 6), st.integers(0, 2**64 - 1))
    def test_draws_are_different_and_below_the_degree(self, degrees: list[int], fanout: int, word: int) -> None:
        words = mix(np.arange(len(degrees), dtype=np.uint64) + np.uint64(word))
        drawn = choose(np.array(degrees), fanout, words)
        assert drawn.min() >= 0
        assert (drawn < np.array(degrees)).all()
        assert all(len(set(column)) == fanout for column in drawn.T.tolist())

    def test_every_subset_is_equally_likely(self) -> None:
        rows, degree, fanout = 60_000, 6, 3
        drawn = choose(np.full(rows, degree), fanout, mix(np.arange(rows, dtype=np.uint64)))
        subsets = Counter(map(tuple, np.sort(drawn, axis=0).T.tolist()))
        expected = rows / 20
        assert len(subsets) == 20
        # chi-squared with 19 degrees of freedom: 43.8 is its 99.9th percentile
        assert sum((count - expected) ** 2 / expected for count in subsets.values()) < 43.8

    @pytest.mark.parametrize("degree", [16, 1000, 2**20 + 1])
    def test_every_neighbour_is_equally_likely(self, degree: int) -> None:
        rows, fanout, bins = 20_000, 15, 16
        drawn = choose(np.full(rows, degree), fanout, mix(np.arange(rows, dtype=np.uint64) + np.uint64(7)))
        counts = np.bincount((drawn.ravel() * bins // degree), minlength=bins)
        share = np.array([-(-(b + 1) * degree // bins) - -(-b * degree // bins) for b in range(bins)]) / degree
        expected = rows * fanout * share
        # 15 degrees of freedom; drawn without replacement, counts vary less than a chi-squared's
        assert ((counts - expected) ** 2 / expected).sum() < 37.7

    def test_only_real_edges_and_no_more_than_the_fan_out(self, partition: Partition) -> None:
        targets, fanouts = np.array([5, 3, 399, 0]), (4, 3, 2)
        sample = Sampler(partition, fanouts).sample(targets, 0, 1)
        assert sample.nodes[:4].tolist() == targets.tolist()
        assert len(set(sample.nodes.tolist())) == len(sample.nodes)
        assert sample.blocks[-1].targets == 4
        assert sample.blocks[0].sources == len(sample.nodes)
        for hop, (block, fanout) in enumerate(zip(reversed(sample.blocks), fanouts, strict=True)):
            assert hop == 0 or block.targets == sample.blocks[len(fanouts) - hop].sources
            degrees = np.diff(partition.indptr)[sample.nodes[: block.targets]]
            assert np.array_equal(np.bincount(block.target, minlength=block.targets), np.minimum(degrees, fanout))
            assert (np.diff(block.target) >= 0).all()
            for number in range(block.targets):
                row = Counter(partition.indices[slice(*partition.indptr[sample.nodes[number] :][:2])].tolist())
                sent = Counter(sample.nodes[block.source[block.target == number]].tolist())
                assert sent <= row

    def test_all_neighbours(self, partition: Partition) -> None:
        counts, found = drawn_neighbours(partition, np.arange(400), ALL, 0)
        assert np.array_equal(counts, np.diff(partition.indptr))
        assert np.array_equal(found, partition.indices)

    def test_the_same_step_is_the_same_sample_and_another_is_not(self, partition: Partition) -> None:
        targets = np.arange(20)
        sampler = Sampler(partition, (5, 5))
        first, other, again = sampler.sample(targets, 0, 1), sampler.sample(targets, 0, 2), Sampler(partition, (5, 5)).sample(targets, 0, 1)
        assert np.array_equal(first.nodes, again.nodes)
        assert all(np.array_equal(a.source, b.source) for a, b in zip(first.blocks, again.blocks, strict=True))
        assert not np.array_equal(first.blocks[-1].source, other.blocks[-1].source) or len(first.nodes) != len(other.nodes)

    def test_what_is_drawn_for_a_node_does_not_depend_on_who_asks_with_it(self, partition: Partition) -> None:
        _, together = drawn_neighbours(partition, np.arange(400), 3, key(1))
        alone = [drawn_neighbours(partition, np.array([node]), 3, key(1))[1] for node in range(400)]
        assert np.array_equal(together, np.concatenate(alone))

    def test_nothing_asked(self, partition: Partition) -> None:
        sample = Sampler(partition, (3, 2)).sample(np.empty(0, np.int64), 0)
        assert len(sample.nodes) == sample.edges == 0

    @pytest.mark.parametrize(("targets", "message"), [([400], "local id 400"), ([-1], "local id -1"), ([1, 1], "given twice")])
    def test_bad_targets_and_the_sampler_still_works(self, partition: Partition, targets: list[int], message: str) -> None:
        sampler = Sampler(partition, (3,))
        with pytest.raises(DataError, match=message):
            sampler.sample(np.array(targets), 0)
        assert len(sampler.sample(np.array([1]), 0).nodes) > 1

    def test_bad_fan_outs_and_partitions_of_others(self, tmp_path: Path) -> None:
        parts = written(tmp_path, [0, 1], [[0, 1]], some_data(2), 2)
        with pytest.raises(DataError, match="process 0 of 1 has partition 1 of 2"):
            Sampler(parts[1], (3,))
        for fanouts in [(), (3, -1)]:
            with pytest.raises(DataError, match="fan-outs are"):
                Sampler(parts[0], fanouts)


class TestSage:
    def edges(self) -> tuple[Edges, torch.Tensor]:
        source, target = torch.tensor([0, 3, 4, 4, 2, 1]), torch.tensor([0, 0, 1, 1, 1, 1])
        adjacency = torch.zeros(3, 5, dtype=torch.float64)
        adjacency.index_put_((target, source), torch.ones(6, dtype=torch.float64), accumulate=True)
        return Edges(3, source, target), adjacency

    def test_mean_equals_the_dense_product(self) -> None:
        edges, adjacency = self.edges()
        layer, x = MeanSage(4, 6).double(), torch.randn(5, 4, dtype=torch.float64)
        mean = adjacency @ x / adjacency.sum(1, keepdim=True).clamp(min=1)
        expected = layer.own(x[:3]) + layer.neighbours(mean)
        torch.testing.assert_close(layer(x, edges), expected)

    def test_attention_equals_the_dense_softmax(self) -> None:
        edges, adjacency = self.edges()
        layer, x = AttentionSage(4, 6, 2).double(), torch.randn(5, 4, dtype=torch.float64) * 30
        values, asking = layer.values(x).view(5, 2, 3), layer.asking(x[:3]).view(3, 2, 3)
        mixed = torch.nn.functional.leaky_relu(values[None] + asking[:, None], 0.2)
        scores = (mixed * layer.score).sum(3) + adjacency.log()[:, :, None]  # an edge given twice counts twice
        weights = torch.softmax(scores[:2], dim=1)
        expected = layer.own(x[:3])
        expected = expected + torch.cat([torch.einsum("tsh,shk->thk", weights, values).flatten(1), torch.zeros(1, 6)])
        torch.testing.assert_close(layer(x, edges), expected)

    @pytest.mark.parametrize("aggregate", ["mean", "attention"])
    def test_gradients_are_finite_without_any_edge(self, aggregate: Any) -> None:
        none = torch.empty(0, dtype=torch.int64)
        model = GraphSage(4, 8, 3, 1, aggregate=aggregate)
        model(torch.randn(2, 4), [Edges(2, none, none)]).sum().backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


class TestPrefetching:
    def test_items_keep_their_order_and_an_error_comes_after_them(self) -> None:
        def items() -> Any:
            yield from range(5)
            raise DataError("the sixth", do="stop")

        for depth in (0, 1, 3):
            got = prefetched(items(), depth)
            assert [next(got) for _ in range(5)] == [0, 1, 2, 3, 4]
            with pytest.raises(DataError, match="the sixth"):
                next(got)

    def test_a_consumer_that_stops_early_ends_the_thread(self) -> None:
        made: list[int] = []

        def items() -> Any:
            for number in range(1000):
                made.append(number)
                yield number

        got = prefetched(items(), 2)
        assert next(got) == 0
        got.close()  # type: ignore[attr-defined]
        assert len(made) < 10

    def test_a_negative_depth(self) -> None:
        with pytest.raises(ConfigError, match="prefetch depth"):
            prefetched([], -1)
