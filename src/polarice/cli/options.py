"""What commands have in common: options, and how they report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..console import Console

__all__ = ["Device", "Out", "Output", "Overwrite", "Reading", "SplitHalves"]

Device = Annotated[str, Parameter(help="Where to compute: auto, cpu, cuda or mps; never a silent fallback.")]
Out = Annotated[Path, Parameter(help="Folder to write.")]
Overwrite = Annotated[bool, Parameter(help="Write into a folder that is not empty.", negative="")]

SplitHalves = Annotated[
    bool, Parameter(help="Put particles without half-set labels into two half sets at random.", negative="")
]


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """How a command reports."""

    json: Annotated[bool, Parameter(help="End with one JSON object on standard output.", negative="")] = False
    quiet: Annotated[bool, Parameter(help="No progress and no text.", negative="")] = False

    def console(self) -> Console:
        """Where the command prints."""
        return Console(json_output=self.json, quiet=self.quiet)


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """How a stack is read for a network."""

    device: Device = "auto"
    pixel_size: Annotated[float | None, Parameter(help="Å per pixel, where the file does not say.")] = None
    contrast: Annotated[
        Literal["bright", "dark"] | None, Parameter(help="Contrast of the protein; found out by default.")
    ] = None
    mask_diameter: Annotated[
        float | Literal["auto", "none"],
        Parameter(
            help="Look at nothing outside a disc of this diameter, Å; none: the box; auto: found from the "
            "stack where other particles reach into the boxes."
        ),
    ] = "auto"
    ctf: Annotated[bool, Parameter(help="Use the CTF: undo its sign changes, tell the network.")] = True
    whiten: Annotated[bool, Parameter(help="Make the noise of each optics group white; needs the CTF.")] = (
        True
    )
    mixed_precision: Annotated[
        bool, Parameter(help="Compute in bfloat16 where the device does so natively: faster.")
    ] = True

    def settings(self) -> dict[str, Any]:
        """As keywords of `polarice.stacks.StackSettings`."""
        return {
            "device": self.device,
            "pixel_size_A": self.pixel_size,
            "contrast": self.contrast,
            "mask_diameter_A": None if self.mask_diameter == "none" else self.mask_diameter,
            "ctf": self.ctf,
            "whiten": self.whiten,
            "mixed_precision": self.mixed_precision,
        }
