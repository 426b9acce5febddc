"""Make `tests/golden/torch_cnn.npz`: four training steps of two small networks by PyTorch, for `tests/test_image_layers.py`.

Run with a Python that has torch: `python bench/peers/golden_cnn.py`. The test does not need torch, it reads the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

STEPS, BATCH, CLASSES = 4, 5, 3


class Lenet(nn.Module):
    """Convolution, ReLU, pooling, convolution, tanh, two Dense."""

    shape = (8, 8, 1)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, (2, 3)), nn.Linear(3 * 2 * 4, 6), nn.Linear(6, CLASSES)]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images (n, channels, height, width)."""
        first, second, third, last = self.layers
        x = functional.max_pool2d(first(x).relu(), 2)
        x = second(x).tanh()
        x = x.permute(0, 2, 3, 1).flatten(1)  # rows in the order height, width, channels
        return last(third(x).relu())


class Normed(nn.Module):
    """Two normalised convolutions, both poolings, the mean of each channel."""

    shape = (7, 6, 2)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(2, 5, 3, stride=2, padding=2),
                nn.BatchNorm2d(5),
                nn.Conv2d(5, 3, 1),
                nn.BatchNorm2d(3, eps=1e-3, momentum=0.2),
                nn.Linear(3, CLASSES),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images (n, channels, height, width)."""
        first, norm, second, other_norm, last = self.layers
        x = functional.avg_pool2d(functional.gelu(norm(first(x))), 2, 1)
        x = functional.max_pool2d(other_norm(second(x)).relu(), 2, 1)
        return last(x.mean(dim=(2, 3)))


def parameters(model: nn.Module) -> list[np.ndarray]:
    """As fastmnist has them: filters (rows, columns, channels; filters) flattened, running statistics behind gamma and beta."""
    found = []
    for layer in model.layers:
        weight = layer.weight.detach()
        if isinstance(layer, nn.Conv2d):
            weight = weight.permute(2, 3, 1, 0).reshape(-1, len(weight))
        elif isinstance(layer, nn.Linear):
            weight = weight.T
        found += [weight, layer.bias.detach()]
        if isinstance(layer, nn.BatchNorm2d):
            found += [layer.running_mean, layer.running_var]
    return [tensor.contiguous().numpy().copy() for tensor in found]


def record(name: str, model: nn.Module) -> dict[str, np.ndarray]:
    """Train and keep everything."""
    height, width, channels = model.shape
    x = torch.randn(STEPS * BATCH, height, width, channels)
    y = torch.randint(CLASSES, (STEPS * BATCH,))
    result = {f"{name}_X": x.flatten(1).numpy(), f"{name}_y": y.numpy().astype(np.int32)}
    result |= {f"{name}_before_{i}": p for i, p in enumerate(parameters(model))}
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    images, losses = x.permute(0, 3, 1, 2), []
    for step in range(STEPS):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        each = functional.cross_entropy(model(images[batch]), y[batch], reduction="none")
        each.mean().backward()
        optimizer.step()
        losses.append(each.detach())
    result |= {f"{name}_after_{i}": p for i, p in enumerate(parameters(model))}
    model.eval()
    outputs = model(images).softmax(dim=1).detach().numpy()
    return result | {f"{name}_losses": torch.cat(losses).numpy(), f"{name}_outputs": outputs}


if __name__ == "__main__":
    torch.manual_seed(0)
    recorded = record("lenet", Lenet()) | record("normed", Normed())
    versions = f"torch {torch.__version__}, numpy {np.__version__}"
    np.savez_compressed(
        Path(__file__).parents[2] / "tests" / "golden" / "torch_cnn.npz", versions=np.array(versions), **recorded
    )
    print(versions)
