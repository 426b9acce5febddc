"""Pictures: what is drawn is what was handed over, whatever its size; pyplot is left alone; every kind has a command."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.exceptions import ConvergenceWarning

from fastmnist import CNNClassifier, LogisticRegression, MLPClassifier, RandomForestClassifier
from fastmnist.cli import main
from fastmnist.evaluation import classification_report, evaluate, figures, measure_calibration
from fastmnist.evaluation.figures.style import image_shape_of
from fastmnist.evaluation.figures.training import windowed_mean
from fastmnist.extras import MissingExtra, require


def history(n, *, validation=True, accuracy=True, last=None):
    losses = [1 / (k + 1) for k in range(n)]
    if last is not None:
        losses[-1] = last
    nothing = [None] * n
    return {
        "loss": losses,
        "val_loss": [2 * x for x in losses] if validation else nothing,
        "accuracy": [1 - x / 2 for x in losses] if accuracy else nothing,
        "val_accuracy": [1 - x for x in losses] if validation else nothing,
        "learning_rate": nothing,
        "seconds": [1.0] * n,
    }


def drawn(axes):
    return [line.get_ydata() for line in axes.lines]


# --- training ---------------------------------------------------------------------------------------------------------


def test_curves_show_every_epoch_of_both_parts():
    run = history(5)
    loss, accuracy = figures.training_curves(run, title="a run").axes
    np.testing.assert_allclose(drawn(loss), [run["loss"], run["val_loss"]])
    np.testing.assert_allclose(drawn(accuracy), 100 * np.array([run["accuracy"], run["val_accuracy"]]))
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training: 0.2000", "validation: 0.4000"]


def test_curves_without_validation_or_accuracy_leave_them_out():
    (loss,) = figures.training_curves(history(1, validation=False, accuracy=False), unit="iteration").axes
    assert len(loss.lines) == 1
    assert loss.get_xlabel() == "iteration"
    both = figures.training_curves({"a": history(3), "b": history(50, validation=False, last=np.nan)}).axes
    assert [len(axes.lines) for axes in both] == [3, 3]
    with pytest.raises(ValueError, match="no loss to draw: a forest has none"):
        figures.training_curves({key: [None] for key in history(0)})


def test_steps_are_the_mean_of_a_window():
    losses = np.arange(10.0)
    each, mean = figures.step_losses(losses, window=4).axes[0].lines
    np.testing.assert_allclose(each.get_ydata(), losses)
    np.testing.assert_allclose(mean.get_ydata(), [np.mean(losses[i : i + 4]) for i in range(7)])
    np.testing.assert_allclose(mean.get_xdata(), range(4, 11))
    assert len(figures.step_losses({"a": losses, "b": losses[:4]}, window=4).axes[0].lines) == 2
    assert np.isnan(windowed_mean(np.array([1, np.nan, 1, 1, 1]), 2)).tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="window must be 1 to 10, the number of steps; got 200"):
        figures.step_losses(losses)


def test_learning_rates_show_mean_and_what_diverged():
    runs = {1e-1: [history(3, last=np.nan)] * 2, 1e-2: [history(3), history(2)]}
    left, right = figures.learning_rates(runs).axes
    np.testing.assert_allclose(
        left.lines[1].get_ydata(), [2, 1, (2 / 3 + 1) / 2]
    )  # the shorter run keeps its last value
    assert [line.get_label() for line in left.lines] == ["0.1 (diverged)", "0.01"]
    np.testing.assert_allclose(right.lines[2].get_ydata(), 100 * np.array([2 / 3, 1 / 2]))
    with pytest.raises(ValueError, match="at least one history"):
        figures.learning_rates({0.1: []})


def test_time_against_accuracy_names_every_point_once():
    points = [figures.Point(f"model {i}", 1 + i / 100, 0.9) for i in range(8)]  # on top of each other
    figure = figures.time_accuracy(points, [figures.Point("model 0", 50.0, 0.8), figures.Point("other", 9.0, 0.7)])
    names = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(names) == [*(f"model {i}" for i in range(8)), "other"]
    with pytest.raises(ValueError, match="seconds > 0"):
        figures.time_accuracy([figures.Point("a", 0.0, 0.9)])


# --- predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [list(range(10)), ["no", "yes"], [7], [f"class {i}" for i in range(62)]])
def test_the_confusion_matrix_says_every_number(labels, tmp_path):
    rng = np.random.default_rng(0)
    true, predicted = rng.choice(labels, (2, 300))
    report = classification_report(true, predicted, labels)
    figure = figures.confusion_matrix(report)
    texts = [text.get_text() for text in figure.axes[0].texts]
    if len(labels) <= 20:
        assert texts[: report.confusion.size] == [f"{n:g}" if n else "·" for n in report.confusion.ravel()]
        assert f"{100 * report.recall[0]:.1f}" in texts
    else:
        assert texts == []
    figures.save(figure, tmp_path / "confusion.svg")
    assert (tmp_path / "confusion.svg").read_text().rstrip().endswith("</svg>")


def test_reliability_shows_the_filled_bins():
    calibration = measure_calibration([True, False, True, True], [0.95, 0.85, 0.9, 0.25], n_bins=4)
    upper, lower = figures.reliability(calibration).axes
    np.testing.assert_allclose([bar.get_height() for bar in upper.patches], [1, 2 / 3])
    np.testing.assert_allclose([bar.get_height() for bar in lower.patches], [1, 3])


def test_samples_have_two_colours_and_a_frame_around_the_truth():
    images = np.zeros((2, 4, 6), np.uint8)
    chances = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]
    figure = figures.sample_predictions(images, ["a", "b"], chances, ["a", "b", "c"])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    right, wrong = shown[1], shown[3]
    assert right.get_title("right") == "true a, predicted a (70.0%)"
    assert wrong.get_title("right") == "true b, predicted c (60.0%)"
    np.testing.assert_allclose([bar.get_height() for bar in right.patches], chances[0])
    np.testing.assert_allclose([bar.get_height() for bar in wrong.patches], [*chances[1], 1.0])  # the frame
    assert right.patches[0].get_facecolor() != wrong.patches[2].get_facecolor()
    assert wrong.patches[3].get_x() + wrong.patches[3].get_width() / 2 == pytest.approx(1)
    with pytest.raises(ValueError, match="with n > 0"):
        figures.sample_predictions(images[:0], [], np.zeros((0, 3)), "abc")


def test_of_many_classes_the_likely_ones_have_bars():
    chances = np.full((1, 62), 0.01)
    chances[0, 40] = 0.39
    figure = figures.sample_predictions(np.ones((1, 5, 5, 3)), [3], chances, range(62))
    ticks = [tick.get_text() for tick in figure.axes[1].get_xticklabels()]
    assert len(ticks) == 12
    assert "40" in ticks


# --- weights ----------------------------------------------------------------------------------------------------------


def images_of(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def test_weights_of_each_class():
    coef = np.arange(2 * 12.0).reshape(2, 12)
    figure = figures.class_weights(coef, ["a", "b"], image_shape=(3, 4))
    np.testing.assert_array_equal(images_of(figure), coef.reshape(2, 3, 4))
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high
    assert figures.class_weights(np.ones((1, 9)), [3, 8]).axes[0].get_title() == "8 rather than 3"
    with pytest.raises(ValueError, match="10 features are no square image"):
        figures.class_weights(np.ones((2, 10)), "ab")
    with pytest.raises(ValueError, match="one row a class"):
        figures.class_weights(np.ones((3, 9)), "ab")
    with pytest.raises(ValueError, match="must have 12 pixels"):
        image_shape_of(12, (3, 3))


def test_filters_show_the_largest_first():
    weights = np.ones((9, 5)) * [1, 5, 2, 4, 3]
    figure = figures.filters(weights, n=3, title="layer")
    assert [image.max() for image in images_of(figure)] == [5, 4, 3]
    assert figure.get_suptitle() == "layer: the 3 of 5 with the largest weights"
    assert len(images_of(figures.filters(np.ones((3, 3, 1, 7))))) == 7
    assert len(images_of(figures.filters(np.ones((3, 5, 20, 3))))) == 16 * 3
    with pytest.raises(ValueError, match="got shape"):
        figures.filters(np.ones(3))


def test_importances_and_grids():
    (image,) = images_of(figures.feature_importances(np.arange(6) / 15, image_shape=(2, 3)))
    np.testing.assert_allclose(image, 100 * np.arange(6).reshape(2, 3) / 15)
    grid = figures.image_grid(np.zeros((7, 3, 3)), list("abcdefg"), columns=3)
    assert len(images_of(grid)) == 7
    with pytest.raises(ValueError, match="captions n strings"):
        figures.image_grid(np.zeros((2, 3, 3)), ["one"])


def test_augmented_images_stand_below_their_originals():
    originals = np.arange(2 * 9.0).reshape(2, 3, 3)
    copies = originals + np.arange(1, 4)[:, None, None, None]
    figure = figures.augmented_images(originals, copies)
    np.testing.assert_array_equal(images_of(figure), np.concatenate([originals, *copies]))
    with pytest.raises(ValueError, match="none empty"):
        figures.augmented_images(originals, copies[:, :1])


# --- files, the extra -------------------------------------------------------------------------------------------------


def test_pyplot_is_left_alone():
    code = (
        "import sys; from fastmnist.evaluation import figures; import numpy as np; assert 'matplotlib' not in sys.modules;"
        "figures.image_grid(np.ones((1, 2, 2))); assert 'matplotlib.pyplot' not in sys.modules; print('fine')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "fine"


def test_without_matplotlib_the_error_has_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"Pictures need matplotlib.*pip install 'fastmnist\[plots\]'"):
        figures.image_grid(np.ones((1, 2, 2)))
    assert require("json", "Nothing") is sys.modules["json"]


def test_save_refuses_unknown_formats_before_it_writes(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .png, .pdf, .svg; got '.bmp'"):
        figures.save(figures.image_grid(np.ones((1, 2, 2))), tmp_path / "a.bmp")
    assert list(tmp_path.iterdir()) == []


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and a model of each kind that the commands draw, small."""
    folder = tmp_path_factory.mktemp("figures")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    X = rng.integers(0, 60, (240, 12, 12)).astype(np.uint8)
    for image, label in zip(X, y, strict=True):
        image[3:9, 4 * label : 4 * label + 3] += np.uint8(40)
    np.savez(folder / "data.npz", x_train=X[:160], y_train=y[:160], x_test=X[160:], y_test=y[160:])
    train = X[:160].reshape(160, -1), y[:160]
    models = {
        "mlp": MLPClassifier((8,), max_iter=3, batch_size=16, record_steps=True, random_state=0, backend="numpy"),
        "softmax": LogisticRegression(max_iter=5, backend="numpy"),
        "cnn": CNNClassifier("lenet5", image_shape=(12, 12), max_iter=1, random_state=0, backend="numpy"),
        "forest": RandomForestClassifier(3, random_state=0, max_depth=3, backend="numpy"),
    }
    for name, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(*train)
        model.save(folder / f"{name}.safetensors")
    return folder


def plot(folder, kind, *models, options=(), code=0):
    files = [str(folder / f"{name}.safetensors") for name in models]
    result = CliRunner().invoke(main, ["plot", kind, *files, "-o", str(folder / f"{kind}.png"), *map(str, options)])
    assert result.exit_code == code, result.output
    return result


def test_augmented_digits_have_a_command(folder):
    options = ["--data", folder / "data.npz", "--count", 2, "--copies", 2, "--rotate", 30, "--elastic-alpha", 8]
    plot(folder, "augmented", options=options)
    assert_is_picture(folder / "augmented.png")
    assert (
        "rotate must be an angle in degrees from 0 to 180"
        in plot(folder, "augmented", options=["--rotate", 900], code=2).stderr
    )


def assert_is_picture(path):
    with Image.open(path) as image:
        assert image.convert("L").getextrema()[0] < 100, "nothing is drawn"


@pytest.mark.parametrize(
    ("kind", "models"),
    [
        ("curves", ["mlp", "softmax"]),
        ("steps", ["mlp"]),
        ("weights", ["softmax"]),
        ("filters", ["cnn"]),
        ("importances", ["forest"]),
        ("times", ["mlp", "forest"]),
        ("confusion", ["mlp"]),
        ("calibration", ["softmax"]),
        ("samples", ["forest"]),
        ("mistakes", ["mlp"]),
    ],
)
def test_every_picture_has_a_command(folder, kind, models):
    options = ["--window", 5] if kind == "steps" else []
    if kind in ("times", "confusion", "calibration", "samples", "mistakes"):
        options = ["--data", folder / "data.npz"]
    result = plot(folder, kind, *models, options=options)
    assert result.stdout == f"written: {folder / kind}.png\n"
    assert_is_picture(folder / f"{kind}.png")


@pytest.mark.parametrize(
    ("kind", "model", "options", "message"),
    [
        ("curves", "forest", [], "holds a RandomForestClassifier, which has no epochs to draw"),
        ("steps", "softmax", [], "Train mlp or cnn with --record-steps"),
        ("weights", "mlp", [], "See `fastmnist plot filters`"),
        ("filters", "mlp", ["--layer", 2], "Layer 2 is a Dense layer that reads no image"),
        ("filters", "mlp", ["--layer", 9], "--layer must be 1 to 2"),
        ("importances", "mlp", [], "which has no importances"),
        ("steps", "mlp", ["--window", 1000], "window must be 1 to 30"),
        ("curves", "absent", [], "No such file"),
        ("samples", "mlp", ["--count", 2, "--wrong", 3], "--wrong must be at most --count, 2"),
    ],
)
def test_what_cannot_be_drawn_is_explained_in_a_line(folder, kind, model, options, message):
    result = plot(folder, kind, model, options=options, code=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_command_says_how_to_get_matplotlib_before_it_works(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = plot(folder, "confusion", "absent", code=2)  # it does not come to look for the model
    assert "pip install 'fastmnist[plots]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_train_records_what_the_curves_show(folder):
    file = folder / "trained.safetensors"
    train = [
        "train",
        "mlp",
        "--data",
        str(folder / "data.npz"),
        "--hidden",
        "4",
        "--epochs",
        "2",
        "--backend",
        "numpy",
        "-q",
    ]
    result = CliRunner().invoke(main, [*train, "--validation", "0.25", "--record-steps", "--save", str(file)])
    assert result.exit_code == 0, result.output
    from fastmnist import load_model

    model = load_model(file)
    assert len([x for x in model.history_["val_accuracy"] if x is not None]) == 2
    assert len(model.step_losses_) == 2 * np.ceil(120 / 32)
    for arguments, message in (
        (["forest", "--validation", "0.1"], "--validation does nothing for forest"),
        (["softmax", "--record-steps"], "--record-steps is for mlp and cnn"),
        (["mlp", "--validation", "0.999"], "leaves none to train on"),
    ):
        result = CliRunner().invoke(main, ["train", *arguments, "--data", str(folder / "data.npz")])
        assert result.exit_code == 2
        assert message in result.stderr


def test_mistakes_of_an_evaluation(folder):
    from fastmnist import load_model

    with np.load(folder / "data.npz") as data:
        X, y = data["x_test"], data["y_test"]
    evaluation = evaluate(load_model(folder / "forest.safetensors"), X.reshape(len(X), -1), y)
    figure = figures.worst_mistakes(evaluation, X, 4)
    worst = evaluation.worst_mistakes(4)
    assert worst
    for i, mistake in enumerate(worst):
        np.testing.assert_array_equal(figure.axes[2 * i].images[0].get_array(), X[mistake.index])
    perfect = evaluate(
        load_model(folder / "forest.safetensors"),
        X.reshape(len(X), -1)[:1],
        evaluation.labels[evaluation.predicted[:1]],
    )
    with pytest.raises(ValueError, match="no mistake to show: all 1 samples are right"):
        figures.worst_mistakes(perfect, X[:1])
