"""What is exported answers as the network does."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from components.model.runtime import load_onnx
from components.train.onnx_graph import OnnxGraph
from components.train.spaces import SPACES, space
from components.train.spaces.export import to_onnx, write
from components.train.spaces.network import Network, network

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = {"mobilenet": (3, 16, 16), "resnet": (3, 12, 16), "recognizer": (1, 24, 40)}


def trained(name: str, seed: int) -> Network:
    """A network whose batch statistics and normalisations are not the fresh ones."""
    whole = space(name, INPUTS[name], 6)
    torch.manual_seed(seed)
    net = network(whole, whole.sample(random.Random(seed)))
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for _ in range(3):
            net(torch.randn(8, *whole.input))
    return net.eval()


@pytest.mark.parametrize("name", sorted(SPACES))
@pytest.mark.parametrize("seed", [0, 1])
def test_onnx_answers_as_the_network(name: str, seed: int) -> None:
    net = trained(name, seed)
    scores = load_onnx(to_onnx(net))
    channels, rows, columns = INPUTS[name]
    for count, wide in ((1, columns), (3, columns + 8)):
        x = np.random.default_rng(0).random((count, channels, rows, wide), dtype=np.float32)
        with torch.inference_mode():
            expected = net(torch.from_numpy(x)).double().numpy()
        np.testing.assert_allclose(scores(x), expected, atol=2e-4)


def test_equal_weights_give_equal_bytes() -> None:
    assert to_onnx(trained("mobilenet", 3)) == to_onnx(trained("mobilenet", 3))


def test_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match="Tanh"):
        write(OnnxGraph(["N", 1, 1, 1]), "x", nn.Tanh())
