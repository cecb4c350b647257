import re
import shutil
import subprocess

import pytest
import torch

from polarice.errors import PolariceError
from polarice.symmetry import point_group

ORDERS = {"C1": 1, "C2": 2, "c7": 7, "D1": 2, "D2": 4, "D5": 10, "T": 12, "O": 24, "I": 60}


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_groups_are_groups(name: str, order: int) -> None:
    group = point_group(name)
    assert len(group) == order
    torch.testing.assert_close(group[0], torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(order, dtype=torch.float64))
    products = (group[:, None] @ group).flatten(0, 1)
    apart = (products[:, None] - group).abs().amax((-1, -2)).min(1).values
    assert apart.max() < 1e-10


@pytest.mark.skipif(not shutil.which("relion_refine"), reason="RELION is not installed")
@pytest.mark.parametrize("name", ["C3", "D2", "D3", "T", "O", "I"])
def test_axes_are_those_of_relion(name: str) -> None:
    told = subprocess.run(
        ["relion_refine", "--print_symmetry_ops", "--sym", name], capture_output=True, text=True, check=True
    ).stdout
    blocks = re.split(r"R\(\d+\)=", told)[1:]
    theirs = torch.tensor(
        [[[float(v) for v in row.split()] for row in block.strip().splitlines()[:3]] for block in blocks],
        dtype=torch.float64,
    )
    ours = point_group(name)
    assert len(theirs) == len(ours)
    apart = (theirs[:, None] - ours).abs().amax((-1, -2)).min(1).values
    assert apart.max() < 1e-4


@pytest.mark.parametrize("name", ["", "C0", "C-1", "D", "K", "O2", "C1000"])
def test_what_is_no_group_is_refused(name: str) -> None:
    with pytest.raises(PolariceError, match="no point group"):
        point_group(name)
