"""Pictures of digits: reading them, bringing them into MNIST's form, showing them in a terminal.

Every picture that can't be used ends in an `ImageError` (or, for IDX files, a `DatasetError`) that says why; both are
`ValueError`s.
"""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import numpy as np

from fastmnist.datasets import read_idx

_SIDE = 28  # of an MNIST image
_BOX = 20  # of the box that its digit fills
_CENTRE = 14  # index of the row and column where its centre of mass lies
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")  # of those that Pillow decodes without calling other programs


class ImageError(ValueError):
    """A picture that can't be read, or in which no digit can be found."""


# --- reading ----------------------------------------------------------------------------------------------------------


def read_images(path: str | os.PathLike) -> list[np.ndarray]:
    """Read the images of a file: a picture, an IDX file or a NumPy array. What it is, is seen from its content.

    Parameters
    ----------
    path : path
        - A picture (PNG, JPEG, BMP, GIF, TIFF, WebP; of an animation the first frame) of any size: grey, colour,
          palette, 8 or 16 bits. Transparency is laid on white (on black if nothing shows on white); EXIF orientation
          is applied.
        - IDX (gzip or not) or `.npy`: one image (H, W), or n images (n, H, W) or (n, 784). Integers within 0..255,
          floats within 0..1 or 0..255; uint16 beyond that is taken as 16-bit grey.

    Returns
    -------
    list of ndarray of shape (H, W), uint8
        0 is black.

    Raises
    ------
    ImageError
        Missing, unreadable, damaged or unknown file, a picture of too many pixels (Pillow's limit for decompression
        bombs), or an array of another shape or range.
    DatasetError
        A damaged IDX file.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        reason = error.strerror or error
        raise ImageError(f"{name}: can't be read: {reason}. Check the path and the permissions.") from error
    if start.startswith(b"\x93NUMPY"):
        return _to_images(_read_npy(path, name), name)
    if start.startswith((b"\0\0", b"\x1f\x8b")):
        return _to_images(read_idx(path), name)
    return [_read_picture(path, name)]


def _read_npy(path: str | os.PathLike, name: str) -> np.ndarray:
    try:
        # Mapped, because np.load would first allocate what the header claims.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise ImageError(
            f"{name}: not a readable .npy file of a plain array: {error}. Save it with np.save."
        ) from error


def _to_images(array: np.ndarray, name: str) -> list[np.ndarray]:
    if array.ndim in (1, 2) and array.shape[-1] == _SIDE * _SIDE:
        array = array.reshape(-1, _SIDE, _SIDE)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.size == 0:
        raise ImageError(
            f"{name}: images must have shape (H, W), (n, H, W) or (n, 784), and not be empty; got {array.shape}."
        )
    return list(_to_uint8(array, name))


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    """Grey levels of any usual range to 0..255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "uif":
        raise ImageError(f"{name}: pixels must be numbers; got {array.dtype}. Convert them to uint8.")
    if not np.isfinite(array).all():
        raise ImageError(f"{name}: pixels must be finite; got NaN or infinity. Replace them first.")
    low, high = array.min(), array.max()
    if array.dtype == np.uint16 and high > 255:
        factor = 255 / 65535
    elif array.dtype.kind == "f" and high <= 1:
        factor = 255.0
    else:
        factor = 1.0
    if low < 0 or high * factor > 255:
        raise ImageError(
            f"{name}: pixels must lie within 0..255, or 0..1 if they are floats; got {low} to {high}. Rescale them first."
        )
    return np.rint(array * factor).astype(np.uint8)


def _read_picture(path: str | os.PathLike, name: str) -> np.ndarray:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as picture:
                return _to_grey(ImageOps.exif_transpose(picture), name)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(_FORMATS)
        raise ImageError(f"{name}: must be a picture ({known}), IDX or .npy; it is none. Convert it to PNG.") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ImageError(f"{name}: a picture may have at most {limit} pixels: {error} Scale it down first.") from error
    except Exception as error:  # Pillow's decoders meet damaged bytes with errors of many types
        raise ImageError(f"{name}: damaged picture: {error}. Get a fresh copy of the file.") from error


def _to_grey(picture: Any, name: str) -> np.ndarray:
    """A Pillow image of any mode to uint8 (H, W)."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return np.rint(np.asarray(picture) / 257).astype(np.uint8)
    if picture.mode in ("I", "F"):
        array = np.asarray(picture)
        fits = array.dtype.kind == "i" and array.min() >= 0 and array.max() <= 65535  # a 16-bit PNG in older Pillow
        return _to_uint8(array.astype(np.uint16) if fits else array, name)
    if "A" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white, black = (
            np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, ground), layer).convert("L"))
            for ground in ("white", "black")
        )
        return black if np.ptp(white) < _MIN_CONTRAST else white  # white ink on nothing shows on black only
    return np.asarray(picture.convert("RGB").convert("L"))


# --- MNIST's form -----------------------------------------------------------------------------------------------------

_MIN_CONTRAST = 12  # grey levels between ink and background, below which a picture counts as blank
_MIN_SIGMAS = 6.0  # the same in standard deviations of the background's noise
_MIN_PIXELS, _MIN_SHARE = 4, 0.02  # the least height or width of a digit: in pixels, and as a part of the picture's
_WORKING_SIDE = 800  # larger pictures are reduced first: 40 times the detail that is left in the end
_FAINT = 0.08  # of the ink's strength: what is fainter is an artefact of compression
_SPECK = 0.05  # of the largest connected piece's mass: what has less is dust, not a part of the digit
_THIN, _PEN = 1.4, 2.2  # strokes thinner than the first, in MNIST pixels, are widened to the second: MNIST's usual pen


def to_mnist(image: np.ndarray) -> np.ndarray:
    """Bring a picture of one digit into MNIST's form: light ink on black, fitted into 20 x 20, its mass in the centre.

    An image that has this form already is returned as it is.

    Parameters
    ----------
    image : ndarray of shape (H, W), uint8
        Dark ink on light ground or the other way round (told by the median of its border), with margins or without;
        light noise, an uneven background, specks and thin strokes are allowed for.

    Returns
    -------
    ndarray of shape (28, 28), uint8

    Raises
    ------
    ImageError
        Not a grey image, or blank: no ink that stands out from the background.

    References
    ----------
    http://yann.lecun.com/exdb/mnist/: "The original black and white (bilevel) images from NIST were size normalized to
    fit in a 20x20 pixel box while preserving their aspect ratio. [...] the images were centered in a 28x28 image by
    computing the center of mass of the pixels, and translating the image so as to position this point at the center of
    the 28x28 field." In the files, that centre is the pixel (14, 14), counted from 0.
    """
    image = np.asarray(image)
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(
            f"to_mnist: image must be uint8 of shape (H, W), and not be empty; got {image.dtype} {image.shape}."
        )
    if _has_mnist_form(image):
        return image.copy()
    return _centre(_fit_into_box(_extract_ink(image)))


def _has_mnist_form(image: np.ndarray) -> bool:
    """Measured on MNIST's 70,000 images: the longer side is 19 or 20, the centre of mass within 0.52 of (14, 14)."""
    if image.shape != (_SIDE, _SIDE) or image.max() < 250:
        return False
    return max(_crop(image).shape) in (_BOX - 1, _BOX) and bool(np.abs(_centre_of_mass(image) - _CENTRE).max() < 0.55)


def _extract_ink(image: np.ndarray) -> np.ndarray:
    """Ink as float32 in 0..1 on a background of exact zeros."""
    from scipy import ndimage

    grey = _reduce(image).astype(np.float32)
    grey = ndimage.gaussian_filter(grey, min(grey.shape) / 400)  # against noise; nothing in the small pictures
    ground = np.median(_border(grey))
    if ground - grey.min() > grey.max() - ground:  # the ink is darker
        grey = 255 - grey
    ink, noise = _subtract_background(grey)
    strength = ink.max()
    pieces, n_pieces = ndimage.label(ink > max(0.25 * strength, _MIN_SIGMAS * noise), np.ones((3, 3)))
    if strength < _MIN_CONTRAST or n_pieces == 0:
        raise ImageError(
            f"the picture is blank: nothing stands out from its background by {_MIN_CONTRAST} grey levels and "
            f"{_MIN_SIGMAS:g} times its noise. Is it the right picture? Draw the digit with more contrast."
        )
    masses = ndimage.sum_labels(ink, pieces, np.arange(1, n_pieces + 1))
    core = np.isin(pieces, 1 + np.flatnonzero(masses >= _SPECK * masses.max()))
    strength = np.percentile(ink[core], 90)
    extent = max(_crop(core).shape)
    least = max(_MIN_PIXELS, math.ceil(_MIN_SHARE * max(grey.shape)))
    if extent < least:
        raise ImageError(
            f"the picture is blank but for a speck: a digit must be at least {least} pixels tall or wide; got {extent}. "
            "Is it the right picture? Draw the digit larger."
        )
    # The soft edge of the strokes belongs to the digit, but not what lies further away.
    near = ndimage.binary_dilation(core, np.ones((3, 3)), iterations=max(1, round(extent / _BOX)))
    ink = np.where(near & (ink > max(_FAINT * strength, 3 * noise)), np.minimum(ink / strength, 1), 0)
    # Where an edge is resolved, the digit ends in its middle; where a pixel is an edge, it ends behind it.
    return _crop(ink, 0.4 if extent > 2 * _BOX else 0)


def _reduce(image: np.ndarray) -> np.ndarray:
    factor = math.ceil(max(image.shape) / _WORKING_SIDE)
    if factor == 1:
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).reduce(factor))


def _border(image: np.ndarray) -> np.ndarray:
    """The pixels of a frame whose width is a twentieth of the shorter side."""
    width = max(1, min(image.shape) // 20)
    inside = np.zeros(image.shape, dtype=bool)
    inside[width:-width, width:-width] = True
    return image[~inside]


def _subtract_background(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """Take away the ground on which bright ink lies; also the standard deviation of its noise.

    The ground is a quadratic surface through the pixels that are no ink: first those of the border, then, in rounds,
    all that lie within three deviations of the surface.
    """
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in grey.shape)
    y, x = np.meshgrid(rows, columns, indexing="ij", sparse=True)
    terms = [np.ones_like(grey), x + 0 * y, y + 0 * x, x * x + 0 * y, x * y, y * y + 0 * x]
    step = max(1, min(grey.shape) // 100)  # 100 pixels across describe a smooth surface well enough
    sample = grey[::step, ::step]
    basis = np.stack([term[::step, ::step].ravel() for term in terms], axis=-1)
    values = sample.ravel()
    border = _border(np.arange(sample.size).reshape(sample.shape))
    chosen = border[np.abs(values[border] - np.median(values[border])) <= 3 * _deviation(values[border]) + 1]
    for _ in range(5):
        weights = np.linalg.lstsq(basis[chosen], values[chosen], rcond=None)[0]
        residual = values - basis @ weights
        noise = _deviation(residual[chosen])
        chosen = np.flatnonzero(np.abs(residual) <= 3 * noise + 1)
    ground = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    return np.maximum(grey - ground, 0), noise


def _deviation(values: np.ndarray) -> float:
    """Standard deviation, by the median of absolute deviations: ink among the values does not raise it."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _crop(image: np.ndarray, above: float = 0) -> np.ndarray:
    """The smallest rectangle that holds all pixels above a value."""
    rows, columns = (np.flatnonzero((image > above).any(axis=axis)) for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _fit_into_box(ink: np.ndarray) -> np.ndarray:
    """Resample so that the longer side is 20, antialiased; thin strokes are widened first, else they would fade away."""
    from PIL import Image
    from scipy import ndimage

    scale = _BOX / max(ink.shape)
    if _stroke_width(ink) * scale < _THIN:
        missing = _PEN / scale - _stroke_width(ink)
        ink = ndimage.grey_dilation(np.pad(ink, math.ceil(missing / 2)), size=(1 + round(missing),) * 2)
        ink = _crop(ink)
        scale = _BOX / max(ink.shape)
    height, width = (max(1, round(n * scale)) for n in ink.shape)
    box = np.asarray(Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.BOX))
    return np.rint(255 * np.clip(box / box.max(), 0, 1)).astype(np.uint8)


def _stroke_width(ink: np.ndarray) -> float:
    """Area over half the outline's length, in pixels."""
    from scipy import ndimage

    mask = np.pad(ink > 0.5, 1)
    outline = mask & ~ndimage.binary_erosion(mask)
    return float(mask.sum() / max(1.0, outline.sum() / 2))


def _centre(box: np.ndarray) -> np.ndarray:
    """Place the centre of mass at (14, 14), to the nearest pixel."""
    top, left = (
        min(max(round(_CENTRE - centre), 0), _SIDE - size)
        for centre, size in zip(_centre_of_mass(box), box.shape, strict=True)
    )
    image = np.zeros((_SIDE, _SIDE), dtype=np.uint8)
    image[top : top + box.shape[0], left : left + box.shape[1]] = box
    return image


def _centre_of_mass(image: np.ndarray) -> np.ndarray:
    mass = image.astype(np.float64)
    return (
        np.array([mass.sum(axis=1) @ np.arange(image.shape[0]), mass.sum(axis=0) @ np.arange(image.shape[1])])
        / mass.sum()
    )


# --- showing ----------------------------------------------------------------------------------------------------------


def show_image(image: np.ndarray, *, color: bool = False) -> str:
    """Draw an image with characters, two pixels above each other in one.

    Parameters
    ----------
    image : ndarray of shape (H, W), uint8
    color : bool, default=False
        Use a terminal's 24 shades of grey (ANSI escape codes); otherwise a pixel is drawn if it is at least 128.

    Returns
    -------
    str
        ceil(H / 2) lines of W characters, each ended by a newline.
    """
    image = np.asarray(image)
    if image.shape[0] % 2:
        image = np.vstack([image, np.zeros_like(image[:1])])
    lines = []
    for upper, lower in zip(image[::2], image[1::2], strict=True):
        if color:
            shades = 232 + np.stack([upper, lower], axis=1).astype(int) * 24 // 256  # 232 black ... 255 white
            lines.append("".join(f"\x1b[38;5;{a};48;5;{b}m▀" for a, b in shades) + "\x1b[0m\n")
        else:
            lines.append("".join(" ▄▀█"[2 * (a >= 128) + (b >= 128)] for a, b in zip(upper, lower, strict=True)) + "\n")
    return "".join(lines)
