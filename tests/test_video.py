"""Films: each frame says what the model said, and the file is whole or not there."""

import sys

import imageio.v2 as imageio
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fastmnist import RandomForestClassifier
from fastmnist.cli import main
from fastmnist.evaluation import video
from fastmnist.evaluation.video import GREEN, RED, SIZE, frames, write_video
from fastmnist.extras import MissingExtra

CHANCES = np.array([[0.9, 0.1, 0.0], [0.25, 0.0, 0.75]])


def pictures():
    images = np.zeros((2, 7, 7), np.uint8)
    images[0, :3] = 200
    images[1, :, 5:] = 100
    return images


def count(frame, colour):
    return int((frame == colour).all(axis=2).sum())


def bar(frame, place, n=10):
    """How many pixels of the middle line of a bar are neither its track nor its frame."""
    step = (video.BARS_BOTTOM - video.BARS_TOP) / n
    y = round(video.BARS_TOP + (place + 0.5) * step)
    line = frame[y, video.BARS_LEFT + 4 : video.BARS_RIGHT - 3]
    return int((line != video.TRACK).any(axis=1).sum()) / len(line)


def test_frames_show_verdict_and_probabilities():
    right, wrong = frames(pictures(), ["a", "a"], CHANCES, ["a", "b", "c"])
    assert right.shape == wrong.shape == (SIZE[1], SIZE[0], 3)
    assert count(right, RED) == 0 < count(right, GREEN)
    assert count(wrong, RED) > 10_000
    assert 0 < count(wrong, GREEN) < 4000  # the frame of the true class' bar
    for frame, row in ((right, CHANCES[0]), (wrong, CHANCES[1])):
        assert [bar(frame, i) for i in range(3)] == pytest.approx(row.tolist(), abs=0.015)


def test_the_image_is_shown_pixel_by_pixel():
    (frame, _) = frames(pictures(), ["a", "a"], CHANCES, ["a", "b", "c"])
    left, top, right, bottom = video.IMAGE_BOX
    side = 7 * ((right - left) // 7)
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    shown = frame[y : y + side, x : x + side, 0].reshape(7, side // 7, 7, side // 7)
    assert (shown == shown[:, :1, :, :1]).all()
    np.testing.assert_array_equal(shown[:, 0, :, 0], np.where(pictures()[0] > 0, 0, 255))


def test_ugly_images_and_many_long_names():
    names = [f"a class with the number {i}" for i in range(62)]
    chances = np.full((1, 62), 1 / 62)
    (frame,) = frames(np.zeros((1, 900, 3, 3)), [names[5]], chances, names, title="t" * 300)
    assert frame.shape == (SIZE[1], SIZE[0], 3)
    assert list(frames(np.zeros((0, 4, 4)), [], np.zeros((0, 3)), "abc")) == []
    with pytest.raises(ValueError, match=r"images must be .* got \(2, 7, 7\), 1, \(2, 3\) and 3 labels"):
        frames(pictures(), ["a"], CHANCES, "abc")


@pytest.mark.parametrize("suffix", ["mp4", "gif", "GIF"])
def test_films_have_every_frame(tmp_path, suffix, capfd):
    path = tmp_path / f"film.{suffix}"
    drawn = [*frames(pictures(), ["a", "a"], CHANCES, ["a", "b", "c"])] * 2
    seen = []
    assert write_video(path, iter(drawn), fps=4, on_frame=seen.append) == 4
    assert seen == [1, 2, 3, 4] and capfd.readouterr() == ("", "")  # the encoder talks to the terminal by itself
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with imageio.get_reader(path) as reader:
        shown = [reader.get_data(i) for i in range(4)]
        if suffix == "mp4":
            assert reader.get_meta_data()["fps"] == 4
            assert reader.get_meta_data()["codec"] == "h264"
        else:
            with Image.open(path) as gif:
                assert gif.info["duration"] == 250
    for frame, expected in zip(shown, drawn, strict=True):
        assert frame.shape[:2] == expected.shape[:2]
        assert np.abs(frame[..., :3].astype(int) - expected).mean() < 3


def test_a_film_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "film.gif"
    path.write_bytes(b"old")

    def broken():
        yield from frames(pictures(), ["a", "a"], CHANCES, ["a", "b", "c"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, broken())
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(path, iter(()))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["film.gif"]


def test_what_is_missing_or_wrong_is_said_first(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"must end in .mp4 or .gif; got '.avi'"):
        write_video(tmp_path / "a.avi", iter(()))
    with pytest.raises(ValueError, match=r"0.1 to 60; got nan"):
        write_video(tmp_path / "a.gif", iter(()), fps=float("nan"))
    with pytest.raises(OSError, match="Create its folder first"):
        write_video(tmp_path / "absent" / "a.gif", iter(()))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fastmnist\[video\]'"):
        write_video(tmp_path / "a.mp4", iter(()))


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (60, 8, 8)).astype(np.uint8), rng.integers(0, 2, 60)
    np.savez(folder / "data.npz", x_train=X[:40], y_train=y[:40], x_test=X[40:], y_test=y[40:])
    RandomForestClassifier(3, random_state=0, bootstrap=False, backend="numpy").fit(
        X[:40].reshape(40, -1), y[:40]
    ).save(folder / "forest")
    return folder


def render(folder, *arguments, code=0):
    command = ["render", *arguments, "--data", folder / "data.npz", "--video", folder / "film.gif"]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == code, result.output
    return result


def test_render_films_a_saved_model(folder):
    result = render(folder, folder / "forest", "--only", "wrong", "--count", 2, "--shuffle", 1)
    assert result.stdout == f"written: {folder / 'film.gif'} (2 frames, 1 s)\n"
    with Image.open(folder / "film.gif") as film:
        assert film.n_frames == 2
        assert film.size == SIZE


def test_render_trains_the_default_network(folder):
    assert "(1 frames" in render(folder, "--count", 1, "--fps", 1).stdout


def test_render_says_what_is_wrong(folder):
    result = render(folder, folder / "forest", "--split", "train", "--only", "wrong", code=2)
    assert "No prediction of forest is wrong: there is nothing to film." in result.stderr
    result = render(folder, folder / "absent", code=2)
    assert "No such file" in result.stderr
