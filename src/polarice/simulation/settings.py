"""What a simulation is asked for, checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import PolariceError

__all__ = ["SimulationSettings"]


@dataclass(frozen=True)
class SimulationSettings:
    """The numbers that `simulate` takes, where they are described.

    Raises
    ------
    PolariceError
        When any makes no sense; the message names all of them.
    """

    particles: int
    box: int
    snr: float
    pixel_size_A: float | None
    ctf: bool
    defocus_A: tuple[float, float]
    voltage_kV: float
    cs_mm: float
    amplitude_contrast: float
    max_shift_px: float
    noise: Literal["gaussian", "poisson"]
    poissonicity: float
    views: Literal["uniform", "sets"]
    set_size: int
    set_angle_deg: float
    seed: int

    def __post_init__(self) -> None:
        pixel_is_wrong = self.pixel_size_A is not None and not self.pixel_size_A > 0
        checks = {
            f"particles must be at least 1, not {self.particles}": self.particles >= 1,
            f"the box must be at least 16 pixels, not {self.box}": self.box >= 16,
            f"the signal-to-noise ratio must be positive, not {self.snr}": self.snr > 0,
            f"the pixel size must be positive, not {self.pixel_size_A} Å": not pixel_is_wrong,
            f"the defocus range {self.defocus_A} is upside down": self.defocus_A[0] <= self.defocus_A[1],
            f"the voltage must be positive, not {self.voltage_kV} kV": self.voltage_kV > 0,
            f"the amplitude contrast must lie between 0 and 1, not {self.amplitude_contrast}": (
                0 <= self.amplitude_contrast <= 1
            ),
            f"the largest shift must lie between 0 and half a box, not {self.max_shift_px} pixels": (
                0 <= self.max_shift_px < self.box / 2
            ),
            f"noise is gaussian or poisson, not {self.noise}": self.noise in ("gaussian", "poisson"),
            f"the poissonicity must be positive, not {self.poissonicity}": self.poissonicity > 0,
            f"views are uniform or sets, not {self.views}": self.views in ("uniform", "sets"),
            f"a set has at least 1 image, not {self.set_size}": self.set_size >= 1,
            f"the set angle must lie between 0 and 180 degrees, not {self.set_angle_deg}": (
                0 <= self.set_angle_deg <= 180
            ),
            f"the seed must not be negative, but it is {self.seed}": self.seed >= 0,
        }
        wrong = [message for message, is_right in checks.items() if not is_right]
        if wrong:
            raise PolariceError("; ".join(wrong))
