"""GraphSAGE over several processes: the same curve as one process, whatever the partition; what goes wrong is said."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.errors import DataError
from components.train.graph.__main__ import main
from components.train.graph.files import TRAIN, NodeData, read_partition, write_partitions
from components.train.graph.ids import Ids
from components.train.graph.partition import partitioner
from components.train.graph.planted import planted_partition
from components.train.graph.relabel import relabel
from components.train.graph.training import Options, train

NODES, CLASSES = 600, 4
OPTIONS = {"fanouts": [5, 4], "hidden": 16, "batch": 90, "epochs": 3, "seed": 3}
LIMIT_S = 400


def parted(folder: Path, edges: Ids, data: NodeData, parts: int, how: str = "metis") -> Path:
    target = folder / f"{how}-{parts}"
    target.mkdir()
    np.save(target / "owner.npy", partitioner(how)(edges, len(data.labels), parts))
    np.save(target / "pairs.npy", edges)
    graph = relabel(target / "owner.npy", target / "pairs.npy", target / "graph", parts)
    write_partitions(graph, data, target / "parts")
    return target / "parts"


def doubled(data: NodeData) -> NodeData:
    """In float64 the order of sums leaves no trace that a test could see."""
    return NodeData(data.features.astype(np.float64), data.labels, data.split, data.classes)


def launched(processes: int, folder: Path, to: Path, options: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *torchrun, "-m", "components.train.graph", str(folder), "--to", str(to), "--options", json.dumps(options)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def result(to: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((to / "result.json").read_text())
    return found


def test_one_process_learns_what_features_alone_do_not_say(tmp_path: Path) -> None:
    edges, data = planted_partition(NODES, CLASSES)
    partition = read_partition(parted(tmp_path, edges, data, 1), 0)
    trained = train(partition, Options(**{**OPTIONS, "epochs": 5}))
    alone = train(read_partition(parted(tmp_path, edges[:0], data, 1, "hash"), 0), Options(**{**OPTIONS, "epochs": 5}))
    assert trained.accuracy is not None
    assert alone.accuracy is not None
    assert trained.accuracy > 0.9
    assert trained.accuracy > alone.accuracy + 0.1
    assert trained.epochs[-1].loss < trained.epochs[0].loss
    assert trained.sent == {}
    assert trained.bytes_a_step == 0
    assert trained.rows.remote == 0


@pytest.mark.parametrize("aggregate", ["mean", "attention"])
def test_equal_options_give_equal_weights_with_and_without_prefetching(tmp_path: Path, aggregate: str) -> None:
    edges, data = planted_partition(200, 2)
    partition = read_partition(parted(tmp_path, edges, data, 1), 0)
    models = [train(partition, Options(**{**OPTIONS, "aggregate": aggregate, "prefetch": depth, "epochs": 1})).model for depth in (0, 0, 3)]
    for other in models[1:]:
        assert all((a == b).all() for a, b in zip(models[0].state_dict().values(), other.state_dict().values(), strict=True))


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    edges, data = planted_partition(20, 2)
    unknown = NodeData(data.features, np.where(data.split == TRAIN, -1, data.labels), data.split, 2)
    with pytest.raises(DataError, match="no training node has a label"):
        train(read_partition(parted(tmp_path, edges, unknown, 1), 0), Options())


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = parted(tmp_path, *planted_partition(20, 2), 2)
    assert main([str(folder), "--to", str(tmp_path / "result"), "--options", '{"hidden": 0}']) == 64
    assert "hidden" in capsys.readouterr().err
    assert main([str(folder), "--to", str(tmp_path / "result")]) == 64
    assert "process 0 of 1 has partition 0 of 2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["mean", "attention"])
@pytest.mark.timeout(3 * LIMIT_S)
def test_two_and_three_processes_make_the_steps_of_one(tmp_path: Path, aggregate: str) -> None:
    edges, data = planted_partition(NODES, CLASSES)
    options = {**OPTIONS, "aggregate": aggregate}
    one = parted(tmp_path, edges, doubled(data), 1)
    assert main([str(one), "--to", str(tmp_path / "one"), "--options", json.dumps(options)]) == 0
    expected, weights = result(tmp_path / "one"), np.load(tmp_path / "one" / "weights.npz")
    for processes, how in ((2, "metis"), (3, "hash")):
        to = tmp_path / f"of{processes}"
        done = launched(processes, parted(tmp_path, edges, doubled(data), processes, how), to, options)
        assert done.returncode == 0, done.stderr
        found = result(to)
        assert found["steps"] == expected["steps"]
        assert [epoch["loss"] for epoch in found["epochs"]] == pytest.approx([epoch["loss"] for epoch in expected["epochs"]], rel=1e-9)
        assert [epoch["accuracy"] for epoch in found["epochs"]] == [epoch["accuracy"] for epoch in expected["epochs"]]
        assert found["accuracy"] == expected["accuracy"]
        there = np.load(to / "weights.npz")
        for name in weights.files:
            np.testing.assert_allclose(there[name], weights[name], rtol=1e-6, atol=1e-9)
        assert len(found["processes"]) == processes
        for process in found["processes"]:
            assert 0 < process["rows"]["remote"] < process["rows"]["needed"]
            assert process["sent"]["features"] > 0
            # every row that one process lacks, another sent: F features of 8 bytes
        sent = sum(process["sent"]["features"] for process in found["processes"])
        assert sent == sum(process["rows"]["remote"] for process in found["processes"]) * data.features.shape[1] * 8


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_fewer_processes_than_partitions_end_with_a_clear_error(tmp_path: Path) -> None:
    folder = parted(tmp_path, *planted_partition(60, 2), 3)
    done = launched(2, folder, tmp_path / "result", OPTIONS)
    assert done.returncode != 0
    assert "start one process for each partition" in done.stderr
    assert not (tmp_path / "result").exists()


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_a_process_whose_peer_dies_says_so_and_may_be_run_again(tmp_path: Path) -> None:
    folder = parted(tmp_path, *planted_partition(60, 2), 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    dies = "import os; from torch import distributed as d; from components.train.graph.exchange import Processes; "
    dies += "d.init_process_group('gloo'); Processes(); os._exit(9)"
    survivor = ["-m", "components.train.graph", str(folder), "--to", str(tmp_path / "result")]
    processes = [
        subprocess.Popen([sys.executable, *command], env={**os.environ, **shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank, command in enumerate((survivor, ["-c", dies]))
    ]
    said = [process.communicate(timeout=LIMIT_S)[1] for process in processes]
    assert [process.returncode for process in processes] == [75, 9], said
    assert "does not answer" in said[0]
    assert not (tmp_path / "result").exists()
