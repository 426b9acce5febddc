"""A film of predictions: a frame a digit, the image large, what it is and what it was taken for, a bar for each class.

Frames are drawn by Pillow, of which every digit costs some milliseconds; encoding is imageio's and ffmpeg's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastmnist.extras import require
from fastmnist.files import check_writable

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SIZE = (1280, 720)  # pixels, width and height; both multiples of 16, as video codecs want them
FORMATS = (".mp4", ".gif")
MOST_BARS = 10

# Green and red as the published film has them, in shades whose lightness differs, with a word beside, for the colour-blind.
GREEN, RED = (0, 158, 115), (213, 42, 30)
BACKGROUND, INK, FAINT, TRACK, BAR = (250, 250, 250), (25, 25, 25), (120, 120, 120), (228, 228, 228), (150, 150, 150)

IMAGE_BOX = (60, 100, 580, 620)  # left, top, right, bottom
BARS_LEFT, BARS_RIGHT, BARS_TOP, BARS_BOTTOM = 730, 1130, 240, 660
BAR_HEIGHT = 30


def frames(
    images: ArrayLike, true: ArrayLike, probabilities: ArrayLike, labels: Sequence, *, title: str = ""
) -> Iterator[np.ndarray]:
    """Draw one frame after the other.

    Parameters
    ----------
    images : array-like of shape (n, height, width) or (n, height, width, 3)
        0 is background.
    true : array-like of shape (n,)
        Classes.
    probabilities : array-like of shape (n, n_classes)
        Columns as in `labels`; of more than ten classes the most likely ones have a bar.
    labels : sequence of length n_classes
    title : str

    Yields
    ------
    ndarray of shape (720, 1280, 3), uint8

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    pictures, chances, names = np.asarray(images), np.asarray(probabilities, np.float64), list(labels)
    truth = np.asarray(true).tolist()
    n = len(pictures)
    if pictures.ndim not in (3, 4) or len(truth) != n or chances.shape != (n, len(names)):
        raise ValueError(
            "images must be (n, height, width), true (n,) and probabilities (n, n_classes), with n_classes labels; got "
            f"{pictures.shape}, {len(truth)}, {chances.shape} and {len(names)} labels."
        )
    brightest = max(float(pictures.max()), 1e-30) if n else 1.0
    return _drawn(pictures / brightest, truth, chances, names, title)


def _drawn(
    pictures: np.ndarray, truth: list[Any], chances: np.ndarray, names: list[Any], title: str
) -> Iterator[np.ndarray]:
    from PIL import Image, ImageDraw

    fonts = _Fonts()
    right = 0
    for i, (picture, true, row) in enumerate(zip(pictures, truth, chances, strict=True)):
        predicted = int(row.argmax())
        is_right = names[predicted] == true
        right += is_right
        frame = Image.new("RGB", SIZE, BACKGROUND)
        draw = ImageDraw.Draw(frame)
        _draw_image(frame, draw, picture, GREEN if is_right else RED)
        draw.text((60, 34), title, font=fonts.small, fill=FAINT)
        count = f"{i + 1:,} of {len(pictures):,}, {right:,} right ({right / (i + 1):.1%})"
        draw.text((60, 650), count, font=fonts.small, fill=FAINT)
        _draw_verdict(draw, fonts, true, names[predicted], is_right)
        _draw_bars(draw, fonts, names, row, true, predicted)
        yield np.asarray(frame)


class _Fonts:
    """Pillow's own font, which every installation has, in the sizes of a frame."""

    def __init__(self) -> None:
        from PIL import ImageFont

        self.large: ImageFont.FreeTypeFont = ImageFont.load_default(54)  # type: ignore[assignment]
        self.medium: ImageFont.FreeTypeFont = ImageFont.load_default(26)  # type: ignore[assignment]
        self.small: ImageFont.FreeTypeFont = ImageFont.load_default(22)  # type: ignore[assignment]


def _draw_image(
    frame: Image.Image, draw: ImageDraw.ImageDraw, picture: np.ndarray, colour: tuple[int, int, int]
) -> None:
    """The digit as large as whole pixels allow, dark on light, in a frame of the verdict's colour."""
    from PIL import Image

    left, top, right, bottom = IMAGE_BOX
    pixels = Image.fromarray(np.round(255 * (1 - picture)).astype(np.uint8)).convert("RGB")
    factor = min((right - left) / pixels.width, (bottom - top) / pixels.height)
    factor = int(factor) if factor >= 1 else factor
    width, height = round(pixels.width * factor), round(pixels.height * factor)
    x, y = (left + right - width) // 2, (top + bottom - height) // 2
    draw.rectangle((x - 6, y - 6, x + width + 5, y + height + 5), fill=colour)
    frame.paste(
        pixels.resize((width, height), Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX), (x, y)
    )


def _draw_verdict(draw: ImageDraw.ImageDraw, fonts: _Fonts, true: Any, predicted: Any, is_right: bool) -> None:
    colour = GREEN if is_right else RED
    draw.text((650, 84), f"True: {_short(true, 18)}", font=fonts.large, fill=INK)
    draw.text((650, 150), f"Predicted: {_short(predicted, 13)}", font=fonts.large, fill=colour)
    draw.text((1230, 162), "right" if is_right else "wrong", font=fonts.medium, fill=colour, anchor="ra")


def _draw_bars(
    draw: ImageDraw.ImageDraw, fonts: _Fonts, names: list[Any], chances: np.ndarray, true: Any, predicted: int
) -> None:
    shown = np.arange(len(names))
    if len(names) > MOST_BARS:
        shown = np.sort(np.argsort(-chances, kind="stable")[:MOST_BARS])
    step = (BARS_BOTTOM - BARS_TOP) / max(len(shown), MOST_BARS)
    for place, i in enumerate(shown):
        top = round(BARS_TOP + place * step + (step - BAR_HEIGHT) / 2)
        middle = top + BAR_HEIGHT // 2
        colour = (GREEN if names[i] == true else RED) if i == predicted else BAR
        draw.rectangle((BARS_LEFT, top, BARS_RIGHT, top + BAR_HEIGHT), fill=TRACK)
        end = BARS_LEFT + round((BARS_RIGHT - BARS_LEFT) * float(np.clip(chances[i], 0, 1)))
        if end > BARS_LEFT:
            draw.rectangle((BARS_LEFT, top, end, top + BAR_HEIGHT), fill=colour)
        if names[i] == true:
            draw.rectangle((BARS_LEFT, top, BARS_RIGHT, top + BAR_HEIGHT), outline=GREEN, width=3)
        draw.text((BARS_LEFT - 16, middle), _short(names[i], 6), font=fonts.medium, fill=INK, anchor="rm")
        draw.text((BARS_RIGHT + 16, middle), f"{chances[i]:.1%}", font=fonts.small, fill=INK, anchor="lm")


def _short(label: Any, length: int) -> str:
    text = str(label)
    return text if len(text) <= length else f"{text[: length - 1]}…"


# --- writing --------------------------------------------------------------------------------------------------------------------


def write_video(
    path: str | PathLike[str],
    pictures: Iterator[np.ndarray],
    *,
    fps: float = 2.0,
    on_frame: Callable[[int], None] | None = None,
) -> int:
    """Encode frames; the film appears under its name only when it is complete.

    Parameters
    ----------
    path : path
        Ends in .mp4 (H.264, plays in every browser) or .gif.
    pictures : iterator of ndarray of shape (height, width, 3), uint8
        At least one.
    fps : float, default=2.0
        Frames a second.
    on_frame : callable, optional
        Called with the number of frames that are encoded.

    Returns
    -------
    int
        How many frames there are.

    Raises
    ------
    ValueError
        Another ending, no frames, or a rate that is not positive.
    fastmnist.extras.MissingExtra
        imageio or its ffmpeg is not installed.
    OSError
        The file can't be written.
    """
    imageio = check_film(path, fps)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}.tmp{target.suffix}")
    n = 0
    try:
        with imageio.get_writer(temporary, **_settings(target.suffix.lower(), fps)) as writer:
            for n, picture in enumerate(pictures, 1):
                writer.append_data(picture)
                if on_frame is not None:
                    on_frame(n)
        if n == 0:
            raise ValueError("A film needs at least one frame; there is no image to show.")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return n


def check_film(path: str | PathLike[str], fps: float) -> Any:
    """Find out whether a film can be written, before anything is drawn; returns imageio.

    Parameters and errors as of `write_video`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: a film's name must end in {' or '.join(FORMATS)}; got {suffix or 'no ending'!r}.")
    if not 0.1 <= fps <= 60:
        raise ValueError(f"fps must be frames a second, 0.1 to 60; got {fps:g}.")
    imageio = require("imageio.v2", "Films")
    if suffix == ".mp4":
        require("imageio_ffmpeg", "MP4 films")
    check_writable(path)
    return imageio


def _settings(suffix: str, fps: float) -> dict[str, Any]:
    if suffix == ".gif":
        return {"format": "GIF", "mode": "I", "duration": 1000 / fps, "loop": 0}
    # Still pictures: a high quality is small; yuv420p is what browsers play.
    settings = {"format": "FFMPEG", "mode": "I", "fps": fps, "codec": "libx264", "pixelformat": "yuv420p", "quality": 8}
    return settings | {
        "ffmpeg_log_level": "error"
    }  # by itself it warns of guesses that a film of few frames a second needs
