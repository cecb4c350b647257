"""From a user's grey scale to the networks' and back.

A network sees images at its own box with protein bright, background 0, white noise of standard deviation 1,
sign changes of the CTF undone, and nothing outside a soft disc. What makes the noise white acts on the signal
too, and is told to the network as part of the CTF.

Where the ice of a stack slopes, a plane is taken off each image, and not put back: the fitted one, times how
much of such planes is the ice's (`polarice.particles.planes`). Where it is even a fitted plane would add more
power at the lowest frequency than it takes away.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ParticleFileError, PolariceError
from ..imaging import CTF, filter_images, fourier_resample, phase_flip, soft_disc
from .crowding import EDGE_PX
from .planes import planes
from .scan import Contrast, ImageStatistics, StackScan
from .stack import ParticleStack

__all__ = ["Preprocessor"]


@dataclass(frozen=True)
class Preprocessor:
    """What is done to every image of a stack before a network, and undone after it.

    Attributes
    ----------
    box : int
        Side of the stack's images in pixels; even.
    pixel_size_A : float
        Å per pixel of the stack.
    model_box : int
        Side of the network's images; even. The field of view stays.
    contrast : {"bright", "dark"}
        Protein's contrast in the stack.
    ctf_known : bool
        Whether the network is told each image's CTF.
    phase_flip : bool
        Whether the sign changes of the CTF are undone.
    mask_diameter_A : float
        Where the soft disc ends, or the largest of several; at most the box.
    whiten : bool
        Whether the noise is made white, where its spectrum and the CTF are known.
    mask_found : bool
        Whether each half set has the disc that was found in it (`ImageStatistics.disc_A`).
    notices : tuple of str
        What the user should know about these choices.

    Raises
    ------
    ParticleFileError
        If a box is odd or the disc does not fit.
    """

    box: int
    pixel_size_A: float
    model_box: int
    contrast: Contrast
    ctf_known: bool
    phase_flip: bool
    mask_diameter_A: float
    whiten: bool = False
    mask_found: bool = False
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for box in (self.box, self.model_box):
            if box % 2 or box < 2:
                raise ParticleFileError(
                    f"a box of {box} pixels is not even", hint="Extract or resample the particles"
                )
        side_A = self.box * self.pixel_size_A
        if not 0 < self.mask_diameter_A <= side_A * (1 + 1e-6):
            raise ParticleFileError(
                f"a mask diameter of {self.mask_diameter_A:g} A does not fit a box of {side_A:g} A"
            )

    @classmethod
    def for_stack(
        cls,
        stack: ParticleStack,
        found: StackScan,
        *,
        contrast: Contrast | None = None,
        mask_diameter_A: float | Literal["auto"] | None = "auto",
        ctf: bool = True,
        whiten: bool = True,
    ) -> Preprocessor:
        """Choose the preprocessing of a stack.

        Parameters
        ----------
        stack : ParticleStack
        found : StackScan
            From `scan` of this stack.
        contrast : {"bright", "dark"}, optional
            Overrides what the scan has found.
        mask_diameter_A : float, "auto" or None
            None is the box; so is ``auto`` where no other particles reach into it.
        ctf : bool
            Undo the CTF's sign changes, and tell the network its magnitude, where its parameters are there.
        whiten : bool
            Make the noise white, where the CTF's parameters are there.
        """
        notices: list[str] = []
        if contrast is None and found.contrast is None:
            notices.append(
                "The contrast of the particles is not significant "
                f"(z = {found.contrast_z:+.1f}); they are taken as bright. Give --contrast if they are dark."
            )
        elif contrast is not None and found.contrast not in (None, contrast):
            notices.append(
                f"The particles were said to be {contrast}, but look {found.contrast} "
                f"(z = {found.contrast_z:+.1f})."
            )
        if ctf and not stack.has_ctf and not stack.phase_flipped:
            missing = ", ".join(f"_{name}" for name in stack.missing_ctf_columns)
            notices.append(
                f"The CTF is not complete (missing {missing}): phases are not flipped, and amplitudes are "
                "estimated as if there were none."
            )
        if stack.box < found.model_box:
            notices.append(
                f"The box of {stack.box} pixels is padded to the model's {found.model_box}: "
                "detail beyond the stack's own Nyquist frequency stays empty."
            )
        side_A, disc_A = stack.box * stack.pixel_size_A, found.statistics.disc_A
        mask_found = mask_diameter_A == "auto" and disc_A is not None
        diameter_A = mask_diameter_A if isinstance(mask_diameter_A, float | int) else side_A
        if mask_found and disc_A is not None:
            discs = disc_A.unique().tolist()
            diameter_A = max(discs)
            sizes = " and ".join(f"{disc:.0f}" for disc in discs)
            notices.append(
                f"Other particles reach into the boxes: a mask of {sizes} Å was found from the stack; "
                "--mask-diameter sets it."
            )
        return cls(
            box=stack.box,
            pixel_size_A=stack.pixel_size_A,
            model_box=found.model_box,
            contrast=contrast or found.contrast or "bright",
            ctf_known=ctf and stack.has_ctf,
            phase_flip=ctf and stack.has_ctf and not stack.phase_flipped,
            mask_diameter_A=diameter_A,
            whiten=whiten and ctf and found.statistics.noise_power is not None,
            mask_found=mask_found,
            notices=tuple(notices),
        )

    @property
    def model_pixel_size_A(self) -> float:
        """Å per pixel of the network's images."""
        return self.pixel_size_A * self.box / self.model_box

    @property
    def sign(self) -> float:
        """1 for bright protein, -1 for dark."""
        return 1.0 if self.contrast == "bright" else -1.0

    def mask(self, statistics: ImageStatistics) -> Tensor:
        """Soft discs of some images, shape (b, model_box, model_box), or (1, …) where all have the same."""
        discs = [self.mask_diameter_A]
        which = torch.zeros(1, dtype=torch.long)
        if self.mask_found and statistics.disc_A is not None:
            values, which = statistics.disc_A.cpu().unique(return_inverse=True)
            discs = values.tolist()
        radii_px = [diameter / 2 / self.model_pixel_size_A for diameter in discs]
        made = torch.stack([soft_disc(self.model_box, radius, EDGE_PX) for radius in radii_px])
        return made[which].to(statistics.background.device)

    def transfer(self, ctf: CTF, statistics: ImageStatistics) -> Tensor | None:
        """What the signal has passed through on the half spectrum of the network's images.

        Parameters
        ----------
        ctf : CTF
        statistics : ImageStatistics
            As given to `forward`.

        Returns
        -------
        Tensor, shape (b, model_box, model_box // 2 + 1), or None
            The CTF, and what makes the noise white; None where the CTF is not to be used.
        """
        if not self.ctf_known:
            return None
        transfer, whitening = (
            ctf.evaluate(self.model_box, self.model_pixel_size_A),
            self._whitening(statistics),
        )
        return transfer if whitening is None else transfer * whitening

    def _whitening(self, statistics: ImageStatistics) -> Tensor | None:
        return statistics.whitening(self.model_box) if self.whiten else None

    def forward(self, images: Tensor, ctf: Tensor | None, statistics: ImageStatistics) -> Tensor:
        """Images as a network wants them.

        Parameters
        ----------
        images : Tensor, shape (b, box, box)
            In the stack's grey scale.
        ctf : Tensor, shape (b, model_box, model_box // 2 + 1), or None
            `transfer` of these images; needed where `phase_flip` says so.
        statistics : ImageStatistics
            Of these images.

        Returns
        -------
        Tensor, shape (b, model_box, model_box)
        """
        self._check(images, self.box)
        if statistics.slopes is not None:
            images = images - planes(statistics.slopes, self.box)
        model = fourier_resample(images, self.model_box)
        # The background goes first: a flip could turn its sign.
        model = model - _column(statistics.background)
        if self.phase_flip:
            if ctf is None:
                raise PolariceError("phases cannot be flipped without a CTF")
            model = phase_flip(model, ctf)
        whitening = self._whitening(statistics)
        if whitening is not None:
            model = filter_images(model, whitening)
        return model * (self.sign / _column(statistics.noise_sigma)) * self.mask(statistics).to(model)

    def inverse(self, denoised: Tensor, statistics: ImageStatistics) -> Tensor:
        """Images of a network in the stack's grey scale, contrast and box.

        Phases stay flipped, and what the disc has hidden is background. Where the CTF is known, what a
        network returns has passed neither through it nor through what makes the noise white.

        Parameters
        ----------
        denoised : Tensor, shape (b, model_box, model_box)
        statistics : ImageStatistics
            As given to `forward`.

        Returns
        -------
        Tensor, shape (b, box, box)
        """
        self._check(denoised, self.model_box)
        scaled = denoised * (self.sign * _column(statistics.noise_sigma))
        return fourier_resample(scaled, self.box) + _column(statistics.background)

    def summary(self) -> dict[str, Any]:
        """Plain values for a JSON report."""
        said = asdict(self)
        return said | {"notices": list(self.notices), "model_pixel_size_A": self.model_pixel_size_A}

    @staticmethod
    def _check(images: Tensor, box: int) -> None:
        if images.ndim != 3 or tuple(images.shape[1:]) != (box, box):
            raise PolariceError(
                f"images of shape {tuple(images.shape)} do not fit a preprocessing with a box of {box}"
            )


def _column(values: Tensor) -> Tensor:
    return values[:, None, None]
