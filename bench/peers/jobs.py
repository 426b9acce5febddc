"""The jobs: what is run, by whom, how often, and what must agree before a number is printed. What is timed stands in each job's module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OURS = "fastmnist"


@dataclass(frozen=True)
class Job:
    """One thing that fastmnist and its peers can both do.

    Attributes
    ----------
    name : str
        As on the command line and in the records.
    title : str
        As in the tables.
    runners : dict
        Provider: "module:class", `fastmnist` among them.
    parameters : dict
        Given to every runner, plain values.
    changes : dict
        Peer: parameters that differ, for both sides, when it is compared with that one.
    columns : dict
        What is timed, and what tables call it: "seconds", and for whole fits "fit_seconds" too. Parameters are named in braces.
    unit : str
        Of `seconds`: "s", or "B" for jobs that measure memory.
    loss_rule : str
        "close": losses within 3 %. "at most": ours at most 1 + 1e-4 times the peer's. "none": the runners compare their results themselves.
    rounds : int
        Samples of each side, if the command line does not say.
    """

    name: str
    title: str
    runners: dict[str, str]
    parameters: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=lambda: {"seconds": ""})
    loss_rule: str = "close"
    rounds: int = 7
    unit: str = "s"

    @property
    def peers(self) -> list[str]:
        """Every provider but ours."""
        return [provider for provider in self.runners if provider != OURS]

    def parameters_for(self, peer: str) -> dict[str, Any]:
        """What both sides are given."""
        return {**self.parameters, **self.changes.get(peer, {})}

    def label(self, column: str, peer: str) -> str:
        """What tables call a column."""
        return self.columns[column].format(**self.parameters_for(peer))


def _runners(module: str, *providers: str) -> dict[str, str]:
    """`CLASSES[provider]` of a module, ours first."""
    return {provider: f"{module}:{CLASSES[provider]}" for provider in (OURS, *providers)}


CLASSES = {
    OURS: "FastMNIST",
    "jax": "JAX",
    "torch": "Torch",
    "torch.compile": "TorchCompile",
    "scikit-learn": "ScikitLearn",
    "scikit-learn-intelex": "Intelex",
    "keras": "Keras",
    "numpy": "NumPy",
    "numba": "Numba",
}
TRAINING = _runners("mlp", "jax", "torch", "torch.compile", "scikit-learn", "keras")
EPOCH = {"seconds": "epoch", "fit_seconds": "fit of {epochs} epochs"}
# Six ten-epoch fits by each of these would take half an hour and say little more than six short ones.
SHORT_FITS = {peer: {"epochs": 4} for peer in ("torch.compile", "scikit-learn", "keras")}
# The wide network is four times as dear. Not two epochs: plain descent then still rises so steeply that accuracies differ by the seeds alone.
SHORT_WIDE_FITS = {peer: {"epochs": 4} for peer in ("torch", *SHORT_FITS)}
PREDICTION = _runners("prediction", "jax", "torch", "torch.compile", "scikit-learn", "keras")
FIRST_FIT = {"seconds": "import to end of fit", "fit_seconds": "the same fit once more"}


def _mlp(
    hidden: tuple[int, ...],
    solver: str,
    learning_rate: float,
    batch_size: int,
    rounds: int,
    short: dict[str, dict[str, int]] = SHORT_FITS,
) -> Job:
    widths = "-".join(map(str, hidden))
    return Job(
        f"mlp-{widths}-{solver}-{batch_size}",
        f"MLP 784-{widths}-10, {solver.capitalize() if solver == 'adam' else solver.upper()}, batch {batch_size}",
        TRAINING,
        {
            "hidden": hidden,
            "solver": solver,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "epochs": 10,
        },
        short,
        EPOCH,
        rounds=rounds,
    )


CNN_TRAINING = _runners("cnn", "torch")
CNN_PREDICTION = _runners("cnn_prediction", "torch")
# Title, layers before the output layer, images an epoch: as many as PyTorch takes three to five seconds for.
NETWORKS: dict[str, tuple[str, list[list[Any]], int]] = {
    "lenet5": (
        "LeNet-5 (6c5 same, 16c5)",
        [
            ["conv", 6, 5, "same"],
            ["pool"],
            ["conv", 16, 5, "valid"],
            ["pool"],
            ["flatten"],
            ["dense", 120],
            ["dense", 84],
        ],
        30_000,
    ),
    "lenet5-valid": (
        "LeNet-5 without padding",
        [
            ["conv", 6, 5, "valid"],
            ["pool"],
            ["conv", 16, 5, "valid"],
            ["pool"],
            ["flatten"],
            ["dense", 120],
            ["dense", 84],
        ],
        30_000,
    ),
    "simple": (
        "CNN 32c3-pool-64c3-pool-10",
        [["conv", 32, 3, "valid"], ["pool"], ["conv", 64, 3, "valid"], ["pool"], ["flatten"]],
        20_000,
    ),
    "example": (
        "CNN 32c3-64c3-pool-128-10 (PyTorch's example)",
        [["conv", 32, 3, "valid"], ["conv", 64, 3, "valid"], ["pool"], ["flatten"], ["dense", 128]],
        6_000,
    ),
}


def _cnn(name: str) -> Job:
    title, network, rows = NETWORKS[name]
    return Job(
        f"cnn-{name}",
        f"{title}, Adam, batch 64",
        CNN_TRAINING,
        {"network": network, "rows": rows, "batch_size": 64, "epochs": 3},
        columns={"seconds": "epoch of {rows:,} images", "fit_seconds": "fit of {epochs} epochs"},
        rounds=6,
    )


def _cnn_prediction(name: str, rows: int) -> Job:
    title, network, _ = NETWORKS[name]
    images = "one image" if rows == 1 else f"{rows:,} images"
    return Job(
        f"cnn-{name}-predict-{rows}",
        f"{title}, predict {images}",
        CNN_PREDICTION,
        {"network": network, "rows": rows},
        columns={"seconds": "call"},
        loss_rule="none",
        rounds=7,
    )


JOBS = {
    job.name: job
    for job in (
        _mlp((128, 64), "adam", 1e-3, 32, rounds=6),
        _mlp((128, 64), "adam", 1e-3, 256, rounds=7),
        _mlp((500, 250, 100), "sgd", 0.01, 64, rounds=6, short=SHORT_WIDE_FITS),
        Job(
            "ovr-gradient-step",
            "one-vs-rest logistic, full-batch gradient step",
            _runners("gradient_step", "torch", "torch.compile", "jax", "numpy"),
            {"learning_rate": 0.5, "steps": 30},
            columns={"seconds": "step"},
            rounds=9,
        ),
        Job(
            "ovr-lbfgs",
            "one-vs-rest logistic, L-BFGS to the peer's objective",
            _runners("lbfgs", "scikit-learn", "scikit-learn-intelex"),
            {"model": "one-vs-rest", "max_iter": 100},
            columns={"seconds": "fit"},
            loss_rule="at most",
            rounds=6,
        ),
        Job(
            "multinomial-lbfgs",
            "multinomial logistic, L-BFGS to the peer's objective",
            _runners("lbfgs", "scikit-learn", "scikit-learn-intelex"),
            {"model": "multinomial", "max_iter": 100},
            columns={"seconds": "fit"},
            loss_rule="at most",
            rounds=6,
        ),
        Job(
            "predict-1",
            "MLP 784-128-64-10, predict one image",
            PREDICTION,
            {"hidden": (128, 64), "rows": 1},
            columns={"seconds": "call"},
            loss_rule="none",
            rounds=9,
        ),
        Job(
            "predict-10000",
            "MLP 784-128-64-10, predict 10,000 images",
            PREDICTION,
            {"hidden": (128, 64), "rows": 10_000},
            columns={"seconds": "call"},
            loss_rule="none",
            rounds=9,
        ),
        *(_cnn(name) for name in NETWORKS),
        *(_cnn_prediction(name, rows) for name in ("lenet5", "simple", "example") for rows in (1, 1000)),
        Job(
            "cnn-example-memory",
            f"{NETWORKS['example'][0]}, Adam, batch 256",
            _runners("cnn_memory", "torch"),
            {"network": NETWORKS["example"][1], "rows": 6_000, "batch_size": 256},
            columns={"seconds": "peak memory of the process"},
            rounds=6,
            unit="B",
        ),
        Job(
            "forest",
            "random forest of 100 trees",
            _runners("forest", "scikit-learn", "scikit-learn-intelex"),
            {"trees": 100, "rows": 60_000},
            columns={"seconds": "fit", "fit_seconds": "predict 10,000 images"},
            loss_rule="none",
            rounds=6,
        ),
        Job(
            "import",
            "import of the library",
            _runners("startup", "numpy", "numba", "jax", "scikit-learn", "torch", "keras"),
            {"what": "import"},
            columns={"seconds": "import"},
            loss_rule="none",
            rounds=6,
        ),
        Job(
            "import-estimator",
            "import of a classifier, ready to be made",
            _runners("startup", "scikit-learn", "torch", "keras"),
            {"what": "import-estimator"},
            columns={"seconds": "import"},
            loss_rule="none",
            rounds=6,
        ),
        Job(
            "first-fit-warm",
            "fresh process, warm cache, one epoch of 784-128-64-10",
            _runners("startup", "jax", "torch", "scikit-learn", "keras"),
            {"what": "first-fit", "warm": True},
            columns=FIRST_FIT,
            loss_rule="none",
            rounds=6,
        ),
        Job(
            "first-fit-cold",
            "fresh process, empty cache, one epoch of 784-128-64-10",
            _runners("startup", "jax"),
            {"what": "first-fit", "warm": False},
            columns=FIRST_FIT,
            loss_rule="none",
            rounds=6,
        ),
    )
}
