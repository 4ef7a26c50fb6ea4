from pathlib import Path

import pytest

from mpsearch.cost.device import operand_format, read_device, refusal
from mpsearch.cost.npu_device import Area, area, left_out
from mpsearch.errors import DeviceError, UnknownNameError
from mpsearch.registry import data_folder
from mpsearch.schemes import SCHEMES, Scheme, Spec, find_scheme

DEVICES = sorted(path.stem for path in data_folder("cost_models").glob("*.toml"))
GOOD = """
name = "mine"
title = "My board"
bandwidth_gb_s = 100
formats = ["fp16", "int8"]
[peak_tflops]
fp16 = 10
int8 = 20
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def runs(device: str, scheme: str) -> bool:
    return not refusal(read_device(device), find_scheme(scheme))


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_that_ships_can_be_read_and_has_sources(name: str) -> None:
    device = read_device(name)
    assert device.name == name
    assert device.sources
    assert {key.removesuffix("_sparse") for key in device.efficiency} <= set(device.peak_tflops)
    for scheme in SCHEMES.values():
        if not refusal(device, scheme):
            assert scheme.rate in device.peak_tflops


def test_fp4_tensor_cores_are_blackwells_and_the_npus_only() -> None:
    having = {name for name in DEVICES if runs(name, "nvfp4")}
    assert {"b200_hgx", "rtx5090", "npu_200tops"} <= having
    assert not having & {"h100_sxm5_80gb", "a100_sxm4_80gb", "l4_24gb", "rtx4090", "t4"}


def test_on_hopper_nvfp4_is_weight_only() -> None:
    assert runs("h100_sxm5_80gb", "nvfp4a16")
    reason = refusal(read_device("h100_sxm5_80gb"), find_scheme("nvfp4"))
    assert "h100_sxm5_80gb has no nvfp4 multipliers" in reason


def test_fp8_starts_at_ada_and_hopper() -> None:
    assert not runs("a100_pcie_80gb", "fp8")
    assert runs("l4_24gb", "fp8")
    assert runs("h100_pcie_80gb", "fp8_block")


def test_sparse_kernels_are_those_that_exist() -> None:
    assert runs("h100_sxm5_80gb", "fp8_2of4")
    assert runs("npu_200tops", "nvfp4_2of4")
    assert runs("b200_hgx", "nvfp4_4of8")
    assert not runs("b200_hgx", "nvfp4_2of4")
    assert not runs("npu_200tops", "nvfp4_4of8")
    assert not runs("t4", "fp16_2of4")
    assert not runs("h100_sxm5_80gb", "w4a16_2of4")
    assert not runs("npu_200tops", "nvfp4a16_2of4")


INT4 = Spec("int4", "group", block_shape=(1, 128), scale_format="fp16")


def test_weights_are_checked_against_what_they_are_multiplied_with() -> None:
    with_int8 = Scheme("w4a8_int8", INT4, find_scheme("int8").activation)
    with_fp8 = Scheme("w4a8", INT4, find_scheme("fp8").activation)
    in_tf32 = Scheme("w4a32", INT4, find_scheme("tf32").activation)
    a100, h100 = read_device("a100_pcie_80gb"), read_device("h100_sxm5_80gb")
    assert not refusal(a100, find_scheme("w4a16"))
    reason = (
        "has no kernel with int4 weights and int8 activations (other weights beside int8: none)"
    )
    assert reason in refusal(a100, with_int8)
    assert not refusal(h100, with_fp8)
    assert "int4 weights and int8 activations" in refusal(h100, with_int8)
    assert "int4 weights and tf32 activations" in refusal(a100, in_tf32)


def test_blackwell_and_the_npu_multiply_eight_by_four_bits() -> None:
    mx = Scheme("mx84", find_scheme("mxfp4").weight, find_scheme("mxfp8").activation)
    assert not refusal(read_device("b200_hgx"), mx)
    assert "multipliers" in refusal(read_device("h100_sxm5_80gb"), mx)
    sparse = Scheme("a8b4", find_scheme("nvfp4").weight, find_scheme("fp8").activation, "2:4")
    assert not refusal(read_device("npu_200tops"), sparse)
    assert refusal(read_device("b200_hgx"), sparse)


def test_published_peaks_are_dense_ones() -> None:
    assert read_device("a100_pcie_80gb").peak_tflops["fp16"] == 312  # 156 is that of tf32
    assert read_device("b300_hgx").peak_tflops["int8"] == 150
    thor = read_device("jetson_t5000_thor").peak_tflops
    assert thor["fp16"] == thor["fp8"] / 2


@pytest.mark.parametrize(
    ("scheme", "operand"),
    [
        ("fp16", "fp16"),
        ("fp8", "fp8"),
        ("fp8_block", "fp8"),
        ("int8_dynamic", "int8"),
        ("nvfp4", "nvfp4"),
        ("mxfp4", "mxfp4"),
        ("mxfp6", "mxfp6"),
        ("mxfp8_e5m2", "mxfp8"),
        ("fp4", "fp4"),
        ("w4a16", "fp16"),
    ],
)
def test_operands_have_the_names_that_devices_use(scheme: str, operand: str) -> None:
    assert operand_format(find_scheme(scheme).activation) == operand


def test_a_users_own_device_is_read(tmp_path: Path) -> None:
    assert read_device(write(tmp_path / "mine.toml", GOOD)).peak_tflops["int8"] == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("bandwidth_gb_s = 100", ""), "bandwidth_gb_s: must be given"),
        (GOOD.replace("100", "-1"), "bandwidth_gb_s: .*greater than 0.*got -1"),
        (GOOD.replace("title", "titel"), "titel|title"),
        (GOOD.replace("int8 = 20", "int8 = 'fast'"), r"peak_tflops\.int8"),
        (GOOD.replace("formats", "model = 'npu'\nformats"), r"\[npu\] table"),
        ("sparse_gain = 2\n" + GOOD, "sparse_gain: .*less than 2"),
        ("name = ", "must be a TOML file"),
    ],
)
def test_a_malformed_device_is_one_line_that_names_the_key(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DeviceError, match=message) as error:
        read_device(write(tmp_path / "mine.toml", text))
    assert "\n" not in str(error.value)
    assert "mine.toml" in str(error.value)


def test_an_unknown_device_lists_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match=r"device must be one of .*b200_hgx.*got 'b2000'"):
        read_device("b2000")


def test_an_operating_point_is_chosen_behind_the_name() -> None:
    low = read_device("npu_200tops@0.7V")
    assert low.peak_tflops["fp16"] == pytest.approx(0.6 * 51.2)
    assert low.bandwidth_gb_s == 1000
    with pytest.raises(
        UnknownNameError, match=r"of npu_200tops must be one of 1\.0V, 0\.7V; got '2V'"
    ):
        read_device("npu_200tops@2V")
    with pytest.raises(UnknownNameError, match=r"of t4 must be one of \(it has none\)"):
        read_device("t4@1V")


def test_an_at_sign_in_a_path_is_no_operating_point(tmp_path: Path) -> None:
    folder = tmp_path / "me@home"
    folder.mkdir()
    assert read_device(write(folder / "mine.toml", GOOD)).name == "mine"
    npu = read_device("npu_200tops")
    assert npu.npu is not None
    own = write(folder / "npu.toml", (data_folder("cost_models") / "npu_200tops.toml").read_text())
    assert read_device(f"{own}@0.7V").npu != npu.npu
    assert read_device(f"{own}@1.0V").npu == npu.npu


def test_what_no_source_gives_is_left_out_and_said() -> None:
    npu = read_device("npu_200tops").npu
    assert npu is not None
    assert area(npu) == {
        "multipliers": 25600,
        "sram_mb": 12,
        "control_overhead": None,
        "mm2": None,
    }
    said = " ".join(left_out(npu))
    for term in ("energy of traffic of tile, cluster, chip", "bandwidth of tile", "area in mm²"):
        assert term in said
    known = npu.model_copy(
        update={"area": Area(mm2_per_multiplier=0.001, mm2_per_sram_mb=1, control_overhead=0.5)}
    )
    assert area(known)["mm2"] == pytest.approx((25.6 + 12) * 1.5)
    assert "area" not in " ".join(left_out(known))
