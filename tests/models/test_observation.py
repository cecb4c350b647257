import torch

from polarice.models.observation import FrequencyBands, observed_spectra


def test_spectra_are_of_the_image_and_of_the_filtered_image(generator: torch.Generator) -> None:
    images = torch.randn(3, 16, 16, generator=generator)
    ctf = torch.rand(3, 16, 9, generator=generator)
    spectra, told = observed_spectra(images, ctf)
    torch.testing.assert_close(torch.fft.irfft2(spectra[:, 0], s=(16, 16)), images)
    torch.testing.assert_close(spectra[:, 1], spectra[:, 0] * ctf)
    assert told is ctf
    spectra, told = observed_spectra(images, None)
    torch.testing.assert_close(spectra[:, 1], spectra[:, 0])
    assert bool((told == 1).all())


def test_bands_are_means_over_rings() -> None:
    """A constant has the same mean in every band that exists, a single ring is found in its own."""
    bands = FrequencyBands(64)
    torch.testing.assert_close(bands(torch.ones(64, 33)), torch.ones(bands.count))
    ring = torch.hypot(
        *torch.meshgrid(64 * torch.fft.fftfreq(64), 64 * torch.fft.rfftfreq(64), indexing="ij")
    )
    power = ((ring > 6) & (ring <= 8)).float()
    expected = torch.zeros(bands.count)
    expected[5] = 1
    torch.testing.assert_close(bands(power), expected)
