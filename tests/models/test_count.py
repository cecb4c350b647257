import torch

from polarice.models import DnCNN, DnCNNConfig, PolarTransformer, PolarTransformerConfig
from polarice.models.count import count_flops, count_parameters


def test_dncnn_in_closed_form() -> None:
    """Two operations for each weight of each convolution at each pixel."""
    network = DnCNN(DnCNNConfig(box=16, depth=4, width=8)).eval()
    convolutions = 9 * (2 * 8 + 2 * 8 * 8 + 8) * 16**2
    # Four sets of bands over the half spectrum, and the two layers of the gain.
    bands, gain = 4 * 16 * 9 * 12, 48 * 32 + 32
    assert count_flops(network, 16) == 2 * (convolutions + bands + gain)
    # Two biases of the outer convolutions; scale and offset of two normalisations; the gain's biases.
    assert count_parameters(network) == convolutions // 16**2 + 8 + 1 + 2 * 2 * 8 + gain + 32 + 1


def test_a_joint_network_is_counted_for_one_image() -> None:
    torch.manual_seed(0)
    network = PolarTransformer(
        PolarTransformerConfig(box=16, widths=(4, 8), coarse_widths=(4, 8), embedding=8)
    ).eval()
    four, eight = (count_flops(network, 16, set_size=size) for size in (4, 8))
    # Convolutions cost the same for each image, the products of all pairs grow with the set.
    assert four < eight < 2 * four
