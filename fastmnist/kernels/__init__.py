"""Bridge for a bare or editable checkout: `fastmnist.kernels` is the sibling folder `kernels/` (a wheel replaces this file by it)."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "kernels")]
