import pytest

from mpsearch.cost.fit.known import find_device, fitted_devices
from mpsearch.errors import DeviceError


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("A100", "a100_pcie_80gb"),
        ("rtx 4090", "rtx4090"),
        ("L40S", "l40s_48gb"),
        ("L4", "l4_24gb"),
        ("h100_sxm5_80gb", "h100_sxm5_80gb"),
    ],
)
def test_devices_are_found_by_what_measurements_call_them(said: str, name: str) -> None:
    device, text = find_device(said)
    assert device.name == name
    assert f'name = "{name}"' in text


def test_names_of_none_or_several_are_refused() -> None:
    with pytest.raises(DeviceError, match="'H200' may be h200_nvl_141gb or h200_sxm_141gb"):
        find_device("H200")
    with pytest.raises(DeviceError, match=r"no device is known as 'GB10'.*--device"):
        find_device("GB10")


def test_the_measured_devices_are_fitted() -> None:
    names = {device.name for device in fitted_devices()}
    assert names == {"a100_pcie_80gb", "h100_pcie_80gb", "b200_hgx", "rtx4090", "rtx5080"}
