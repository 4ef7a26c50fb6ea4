import pytest

from mpsearch.cost.products import collect, right_bytes, weight_bits
from mpsearch.schemes import SCHEMES, parse_sparsity, stored_bits
from tests.support.handmade_graph import attention, conv, linear

LAYERS = (
    linear("a", 1, 128, 128),
    linear("odd", 3, 33, 50),
    conv("c", 8, 24, 20, 3),
    conv("dw", 8, 24, 24, 5, groups=24),
    conv("g", 8, 64, 30, 3, groups=2),
)


@pytest.mark.parametrize("name", SCHEMES)
def test_bits_of_many_weights_are_those_of_each(name: str) -> None:
    scheme = SCHEMES[name]
    gemms = [layer.gemms[0] for layer in LAYERS]
    nothing = [0] * len(gemms)
    expected = []
    for gemm in gemms:
        channels = gemm.k // gemm.positions
        if scheme.sparsity is not None:
            group = parse_sparsity(scheme.sparsity).group
            channels += -channels % group
        size = (gemm.n, gemm.positions, channels)
        expected.append(stored_bits(scheme.weight, *size, sparsity=scheme.sparsity))
    assert weight_bits(scheme, collect(gemms, nothing, nothing)).tolist() == expected


def test_the_right_operand_is_stored_weights_or_an_activation() -> None:
    layers = [linear("a", 1, 128, 64), attention("qk", 4, 8, 16)]
    products = collect([layer.gemms[0] for layer in layers], [0, 0], [0, 0])
    assert right_bytes(SCHEMES["fp16"], products).tolist() == [2 * 128 * 64, 2 * 4 * 8 * 16]
    assert right_bytes(SCHEMES["fp8"], products).tolist() == [128 * 64 + 4 * 128, 4 * 8 * 16]
