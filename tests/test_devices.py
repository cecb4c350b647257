import pytest
import torch

from polarice.devices import resolve_device
from polarice.errors import DeviceError

PRESENT = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}


def test_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


def test_auto_is_the_best_that_is_there() -> None:
    assert resolve_device().type == next(kind for kind, there in PRESENT.items() if there)
    assert resolve_device("auto") == resolve_device()


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_an_absent_device_is_an_error_not_the_cpu(kind: str) -> None:
    if PRESENT[kind]:
        assert resolve_device(kind).type == kind
        return
    with pytest.raises(DeviceError, match=f"the device {kind} is absent") as caught:
        resolve_device(kind)
    assert "cpu" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:x", "cuda:-1", "tpu:0"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(DeviceError, match="unknown device"):
        resolve_device(name)


def test_numbered_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="cuda:2 is absent"):
        resolve_device("cuda:2")
