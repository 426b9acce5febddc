"""Pictures of digits: read, brought into MNIST's form, shown."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fastmnist.datasets import load_mnist
from fastmnist.images import ImageError, read_images, show_image, to_mnist


@pytest.fixture(scope="module")
def digits():
    """60 test images of MNIST and their labels."""
    X, y = load_mnist("test", return_X_y=True)
    return X[:60].reshape(-1, 28, 28), y[:60]


@pytest.fixture(scope="module")
def classify():
    """Nearest neighbour (by cosine) among 5,000 training images."""
    X, y = load_mnist("train", return_X_y=True)
    known = X[:5000].astype(np.float32)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    return lambda images: y[np.argmax(known @ np.reshape(images, (-1, 784)).T.astype(np.float32), axis=0)]


def enlarge(image, height=300, width=300):
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def on_canvas(image, height=400, width=600, top=40, left=150):
    canvas = np.zeros((height, width), np.uint8)
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def centre_of_mass(image):
    rows, columns = np.indices(image.shape)
    return np.array([(image * rows).sum(), (image * columns).sum()]) / image.sum()


def check_form(image):
    assert image.shape == (28, 28) and image.dtype == np.uint8 and image.max() >= 250
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)
    offset = np.abs(centre_of_mass(image.astype(float)) - 14)
    touches = rows[0] == 0 or columns[0] == 0 or rows[-1] == 27 or columns[-1] == 27
    assert touches or offset.max() <= 0.51


def difference(images, others):
    return np.abs(np.subtract(images, others, dtype=float)).mean()


# --- to_mnist ---------------------------------------------------------------------------------------------------------


def test_mnist_images_stay_as_they_are():
    X, _ = load_mnist("test", return_X_y=True)
    for image in X[:2000].reshape(-1, 28, 28):
        np.testing.assert_array_equal(to_mnist(image), image)


def test_result_is_a_new_array(digits):
    image = digits[0][0]
    assert not np.shares_memory(to_mnist(image), image)


def noisy(image, deviation, seed=0):
    noise = np.random.default_rng(seed).normal(0, deviation, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def on_shaded_paper(image):
    """Dark ink on paper whose brightness runs from 120 to 230, with a little noise."""
    y, x = np.mgrid[0 : 1 : image.shape[0] * 1j, 0 : 1 : image.shape[1] * 1j]
    return noisy((120 + 50 * x + 60 * y) * (1 - 0.75 * image / 255.0), 4)


def with_dust(image):
    dusty, rng = image.copy(), np.random.default_rng(0)
    dusty[rng.random(image.shape) < 0.001] = 255
    return dusty


def thin_outline(image):
    """The boundary of the ink, 2 pixels wide: strokes too thin for plain resampling."""
    from scipy import ndimage

    return np.where(ndimage.binary_dilation(ridge(image), iterations=1), 255, 0).astype(np.uint8)


def ridge(image):
    """Middle line of the strokes: where the distance to the background has a maximum along a row or a column."""
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(image > 128)
    peaks = [distance >= ndimage.maximum_filter1d(distance, 9, axis=axis) for axis in (0, 1)]
    return (peaks[0] | peaks[1]) & (distance > 0)


VARIANTS = {  # what is made of an MNIST image, and the mean difference in grey levels that is allowed
    "dark on light": (lambda image: 255 - image, 1),
    "padded": (lambda image: np.pad(image, 15), 1),
    "padded, dark on light": (lambda image: np.pad(255 - image, ((2, 30), (40, 3)), constant_values=255), 1),
    "faint": (lambda image: (90 + np.pad(image, 5) // 3).astype(np.uint8), 2),
    "large": (enlarge, 8),
    "large with margins, dark on light": (lambda image: 255 - on_canvas(enlarge(image)), 8),
    "blocks": (lambda image: on_canvas(np.kron(image, np.ones((10, 10), np.uint8))), 8),
    "tight": (lambda image: enlarge(np.pad(tight(image), 1), 12 * len(tight(image)), 12 * tight(image).shape[1]), 20),
    "noisy": (lambda image: noisy(255 - on_canvas(enlarge(image)) // 2, 10), 9),
    "shaded paper": (lambda image: on_shaded_paper(on_canvas(enlarge(image))), 11),
    "dusty": (lambda image: with_dust(on_canvas(enlarge(image))), 9),
    "huge": (lambda image: on_canvas(enlarge(image, 1500, 1500), 1700, 2000), 9),
    "thin": (lambda image: on_canvas(thin_outline(enlarge(image))), 25),
}


def tight(image):
    return image[np.ix_(image.any(axis=1), image.any(axis=0))]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_come_back(digits, classify, variant):
    change, allowed = VARIANTS[variant]
    images, labels = digits
    keep = labels != 1 if variant == "tight" else slice(None)  # a tight crop of a 1 is nearly all ink
    images, labels = images[keep][:15], labels[keep][:15]
    results = np.array([to_mnist(change(image)) for image in images])
    for result in results:
        check_form(result)
    assert difference(results, images) < allowed
    came_back, were = classify(np.concatenate([results, images])).reshape(2, -1)
    assert np.mean(came_back == were) >= 0.9


def test_aspect_ratio_is_kept():
    bar = np.zeros((100, 100), np.uint8)
    bar[10:90, 40:60] = 255
    result = to_mnist(bar)
    assert np.flatnonzero(result.any(axis=1)).size == 20 and np.flatnonzero(result.any(axis=0)).size == 5
    check_form(result)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((28, 28), np.uint8),
        np.full((200, 300), 255, np.uint8),
        np.full((1, 1), 7, np.uint8),
        np.tile(np.arange(100, 200, dtype=np.uint8), (80, 1)),
        noisy(np.full((200, 200), 128.0), 10),
        np.add(np.zeros((28, 28), np.uint8), 5 * np.eye(28, dtype=np.uint8)),
    ],
    ids=["black", "white", "one pixel", "gradient", "noise", "too faint"],
)
def test_blank_is_refused(image):
    with pytest.raises(ImageError, match=r"blank: nothing stands out.*more contrast"):
        to_mnist(image)


def test_speck_is_refused():
    image = np.full((300, 300), 255, np.uint8)
    image[100:102, 50:52] = 0
    with pytest.raises(ImageError, match=r"but for a speck.*at least 6 pixels.*larger"):
        to_mnist(image)


@pytest.mark.parametrize(
    "image", [np.zeros((28, 28)), np.zeros((28, 28, 3), np.uint8), np.zeros((0, 5), np.uint8), np.zeros(784, np.uint8)]
)
def test_to_mnist_refuses_other_arrays(image):
    with pytest.raises(ImageError, match=r"must be uint8 of shape \(H, W\).*got"):
        to_mnist(image)


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.sampled_from([0, 9, 128, 255])
    )
)
def test_any_picture_gives_mnist_form_or_one_error(image):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result = to_mnist(image)
        except ImageError:
            return
    assert result.shape == (28, 28) and result.dtype == np.uint8 and result.max() >= 250


# --- read_images ------------------------------------------------------------------------------------------------------


@pytest.fixture
def digit(digits):
    return digits[0][0]


def roundtrip(path):
    (image,) = read_images(path)
    assert image.dtype == np.uint8 and image.ndim == 2
    return to_mnist(image)


def test_pictures_of_every_kind(tmp_path, digit):
    large = 255 - np.asarray(enlarge(digit))
    grey = Image.fromarray(large)
    red_on_yellow = Image.composite(Image.new("RGB", grey.size, "yellow"), Image.new("RGB", grey.size, "darkred"), grey)
    transparent = Image.new("RGBA", grey.size, (0, 0, 0, 0))
    transparent.putalpha(Image.fromarray(255 - large))
    white_ink = Image.new("RGBA", grey.size, (255, 255, 255, 0))
    white_ink.putalpha(Image.fromarray(255 - large))
    pictures = {
        "grey.png": grey,
        "grey.jpg": grey,
        "bits.png": grey.point(lambda v: 255 * (v > 128)).convert("1"),
        "colour.png": red_on_yellow,
        "colour.jpg": red_on_yellow,
        "cmyk.jpg": red_on_yellow.convert("CMYK"),
        "palette.png": red_on_yellow.quantize(32),
        "alpha.png": transparent,
        "grey-alpha.png": transparent.convert("LA"),
        "white-on-nothing.png": white_ink,
        "16-bit.png": Image.fromarray(large.astype(np.uint16) * 257),
        "float.tiff": Image.fromarray(large.astype(np.float32) / 255),
        "grey.bmp": grey,
        "grey.gif": grey,
        "grey.webp": grey,
    }
    expected = to_mnist(large)
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        result = roundtrip(tmp_path / name)
        # The centre of mass may round to a neighbouring pixel.
        shifted = [np.roll(result, (row, column), (0, 1)) for row in (-1, 0, 1) for column in (-1, 0, 1)]
        assert min(difference(one, expected) for one in shifted) < 8, name


def test_palette_with_a_transparent_entry(tmp_path, digit):
    ink = (np.asarray(enlarge(digit)) > 128).astype(np.uint8)
    picture = Image.frombytes("P", ink.shape[::-1], ink.tobytes())
    picture.putpalette([255, 0, 0, 0, 0, 0])  # the transparent ground is red, and must not be seen
    picture.save(tmp_path / "p.png", transparency=0)
    (image,) = read_images(tmp_path / "p.png")
    assert set(np.unique(image)) == {0, 255}
    assert difference(to_mnist(image), digit) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, digit, orientation):
    large = 255 - on_canvas(enlarge(digit), 320, 380, 10, 30)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's numbers of the inverse transpositions
    stored = Image.fromarray(large)
    if orientation > 1:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    (image,) = read_images(tmp_path / "photo.jpg")
    assert image.shape == large.shape
    assert difference(image, large) < 2


def to_idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_arrays(tmp_path, digits):
    images = digits[0][:3]
    wide = np.arange(30, dtype=np.uint8).reshape(5, 6)
    saved = {
        "n-28-28": (images, images),
        "n-784": (images.reshape(3, 784), images),
        "784": (images[0].ravel(), images[:1]),
        "h-w": (wide, [wide]),
    }
    for name, (array, expected) in saved.items():
        np.save(tmp_path / f"{name}.npy", array)
        (tmp_path / f"{name}.idx").write_bytes(to_idx(array))
        for extension in ("npy", "idx"):
            got = read_images(tmp_path / f"{name}.{extension}")
            assert len(got) == len(expected)
            for one, other in zip(got, expected, strict=True):
                assert one.dtype == np.uint8
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0, 255], [51, 102]], np.int64),
        np.array([[0, 255], [51, 102]], np.float64),
        np.array([[0, 1], [0.2, 0.4]], np.float32),
        np.array([[0, 65535], [13107, 26214]], np.uint16),
    ],
)
def test_ranges_of_arrays(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_images(tmp_path / "a.npy")[0], [[0, 255], [51, 102]])
    np.save(tmp_path / "b.npy", array > 0)
    np.testing.assert_array_equal(read_images(tmp_path / "b.npy")[0], [[0, 255], [255, 255]])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4, 5)), r"images must have shape \(H, W\).*got \(2, 3, 4, 5\)"),
        (np.zeros((0, 28, 28)), "not be empty"),
        (np.zeros(10), r"got \(10,\)"),
        (np.full((4, 4), np.nan), "finite; got NaN"),
        (np.full((4, 4), -1), "within 0..255.*got -1 to -1"),
        (np.full((4, 4), 256.0), "within 0..255.*got 256.0"),
        (np.full((4, 4), "x"), "pixels must be numbers; got <U1"),
        (np.full((4, 4), None), "not a readable .npy file of a plain array"),
    ],
)
def test_arrays_refused(tmp_path, array, message):
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(ImageError, match=f"bad.npy: .*{message}"):
        read_images(tmp_path / "bad.npy")


def test_files_refused(tmp_path, digit):
    def refused(name, content, message, error=ImageError):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=message):
            read_images(tmp_path / name)

    Image.fromarray(digit).save(tmp_path / "good.png")
    Image.fromarray(enlarge(digit)).save(tmp_path / "good.jpg")
    png, jpg = (tmp_path / "good.png").read_bytes(), (tmp_path / "good.jpg").read_bytes()
    refused("cut.png", png[: len(png) // 2], r"cut\.png: damaged picture.*fresh copy")
    refused("cut.jpg", jpg[: len(jpg) // 2], r"cut\.jpg: damaged picture.*fresh copy")
    refused("empty.png", b"", r"must be a picture \(PNG, JPEG")
    refused("text.png", b"no picture at all", r"must be a picture \(PNG, JPEG.*Convert it to PNG")
    refused("cut.npy", b"\x93NUMPY\x01\x00", r"cut\.npy: not a readable \.npy file")
    refused("cut.idx", to_idx(digit)[:-1], r"cut\.idx: truncated", error=ValueError)
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    claims = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"x"
    refused("claims.npy", claims, r"claims\.npy: not a readable \.npy file")
    with pytest.raises(ImageError, match=r"nowhere\.png: can't be read: No such file.*Check the path"):
        read_images(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="can't be read: Is a directory"):
        read_images(tmp_path)


def test_pickles_are_not_loaded(tmp_path):
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match=r"not a readable \.npy"):
        read_images(tmp_path / "trap.npy")
    assert not marker.exists()


def test_decompression_bomb_is_refused(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for side in (10_000, 60_000):  # beyond Pillow's limit, and beyond twice the limit
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b""))
        with pytest.raises(ImageError, match=r"bomb\.png: a picture may have at most \d+ pixels.*Scale it down"):
            read_images(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's remarks on the damage
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_pictures_give_one_error(tmp_path_factory, data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    path = tmp_path_factory.mktemp("damaged") / "x"
    Image.fromarray(np.eye(30, dtype=np.uint8) * 255).save(path, format=kind)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        (image,) = read_images(path)
        assert image.ndim == 2 and image.dtype == np.uint8
    except ValueError as error:
        assert str(path) in str(error)


# --- show_image -------------------------------------------------------------------------------------------------------


def test_show_image():
    image = np.array([[0, 0, 255, 255], [0, 255, 0, 255], [127, 128, 0, 0]], np.uint8)
    assert show_image(image) == " ▄▀█\n ▀  \n"


def test_show_image_in_shades(digit):
    shown = show_image(np.array([[0, 255], [128, 10]], np.uint8), color=True)
    assert shown == "\x1b[38;5;232;48;5;244m▀\x1b[38;5;255;48;5;232m▀\x1b[0m\n"
    lines = show_image(digit, color=True).splitlines()
    assert len(lines) == 14 and all(line.count("▀") == 28 for line in lines)
    assert [len(line) for line in show_image(digit).splitlines()] == [28] * 14
