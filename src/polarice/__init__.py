"""polarice: joint denoising of cryo-EM particle images with rotation-equivariant networks."""

__version__ = "0.1.0"
