"""How fields of a ``.cs`` file and columns of a STAR file correspond where only name and unit differ.

What needs more than a factor is in `cryosparc_star` (out of ``.cs``) and `star_cryosparc` (into it).
Aberrations, anisotropic magnification and coordinates in micrographs have no counterpart here: what
nobody has checked against both programs is not converted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["ALIGNED_IN", "EXPOSURE_GROUP", "MARKS", "OPTICS", "PARTICLE", "SIGN", "UID", "Scaled"]


class Scaled(NamedTuple):
    """A column that is a field times a factor.

    Attributes
    ----------
    field : str
    column : str
    factor : float
    """

    field: str
    column: str
    factor: float = 1.0


_DEGREES = 180 / math.pi

# Columns of the optics table.
OPTICS = (
    Scaled("ctf/accel_kv", "rlnVoltage"),
    Scaled("ctf/cs_mm", "rlnSphericalAberration"),
    Scaled("ctf/amp_contrast", "rlnAmplitudeContrast"),
    Scaled("blob/psize_A", "rlnImagePixelSize"),
)
PARTICLE = (
    Scaled("ctf/df1_A", "rlnDefocusU"),
    Scaled("ctf/df2_A", "rlnDefocusV"),
    Scaled("ctf/df_angle_rad", "rlnDefocusAngle", _DEGREES),
    Scaled("ctf/phase_shift_rad", "rlnPhaseShift", _DEGREES),
    Scaled("ctf/bfactor", "rlnCtfBfactor"),
)
# What cryoSPARC has no field for; other programs leave these alone.
MARKS = (
    Scaled("polarice/phase_flipped", "rlnCtfDataArePhaseFlipped"),
    Scaled("polarice/ctf_premultiplied", "rlnCtfDataAreCtfPremultiplied"),
    Scaled("polarice/denoised", "polariceDenoised"),
    Scaled("polarice/outlier", "polariceOutlier"),
    Scaled("polarice/confidence", "polariceConfidence"),
    Scaled("polarice/effective_neighbours", "polariceEffectiveNeighbours"),
    Scaled("polarice/agreement", "polariceAgreement"),
    Scaled("polarice/agreement_A", "polariceAgreementResolution"),
)
# Columns that bring a row back to the cryoSPARC particle that it came from.
UID, EXPOSURE_GROUP, SIGN = "cryosparcUid", "cryosparcExposureGroup", "cryosparcSign"
# Where poses are, the best first.
ALIGNED_IN = ("alignments3D", "alignments2D")
