"""Tests of benchmarks.launches with a small HLO program whose counts were computed by hand."""

import pytest

from benchmarks.launches import Collective, calls, collectives, cost, tf32_products

HLO = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,16]{1,0})->f32[8,16]{1,0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%fused_slice (p0: f32[12,8,16], p1: s32[]) -> f32[8,16] {
  %p0 = f32[12,8,16]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,8,16]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,16}
  ROOT %flat = f32[8,16]{1,0} bitcast(%one)
}

%fused_update (p0: f32[12,8,16], p1: f32[8,16], p2: s32[]) -> f32[12,8,16] {
  %p0 = f32[12,8,16]{2,1,0} parameter(0)
  %p1 = f32[8,16]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %update = f32[1,8,16]{2,1,0} bitcast(%p1)
  ROOT %updated = f32[12,8,16]{2,1,0} dynamic-update-slice(%p0, %update, %p2, %zero, %zero)
}

%fused_dot (p0: f32[8,16], p1: bf16[8,16]) -> f32[8,8] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = bf16[8,16]{1,0} parameter(1)
  %wide = f32[8,16]{1,0} convert(%p1)
  ROOT %dot = f32[8,8]{1,0} dot(%p0, %wide), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

%body (state: (s32[], f32[12,8,16], f32[8,16])) -> (s32[], f32[12,8,16], f32[8,16]) {
  %state = (s32[], f32[12,8,16]{2,1,0}, f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %stack = f32[12,8,16]{2,1,0} get-tuple-element(%state), index=1
  %x = f32[8,16]{1,0} get-tuple-element(%state), index=2
  %slice = f32[8,16]{1,0} fusion(%stack, %i), kind=kLoop, calls=%fused_slice
  %gemm = (f32[8,16]{1,0}, s8[4194304]{0}) custom-call(%x, %slice), custom_call_target="__cublas$gemm", of={HIGHEST}
  %y = f32[8,16]{1,0} get-tuple-element(%gemm), index=0
  %next = f32[12,8,16]{2,1,0} fusion(%stack, %y, %i), kind=kLoop, calls=%fused_update
  ROOT %out = (s32[], f32[12,8,16]{2,1,0}, f32[8,16]{1,0}) tuple(%i, %next, %y)
}

%again (state: (s32[], f32[12,8,16], f32[8,16])) -> pred[] {
  %state = (s32[], f32[12,8,16]{2,1,0}, f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %most = s32[] constant(3)
  ROOT %less = pred[] compare(%i, %most), direction=LT
}

ENTRY %main (x: f32[8,16], narrow: bf16[8,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %narrow = bf16[8,16]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %filled = f32[12,8,16]{2,1,0} broadcast(%zero), dimensions={}
  %start = (s32[], f32[12,8,16]{2,1,0}, f32[8,16]{1,0}) tuple(%zero, %filled, %x)
  %loop = (s32[], f32[12,8,16]{2,1,0}, f32[8,16]{1,0}) while(%start), condition=%again, body=%body, TURNS
  %y = f32[8,16]{1,0} get-tuple-element(%loop), index=2
  %reduced = f32[8,16]{1,0} all-reduce-start(%y), to_apply=%sum
  %square = f32[8,8]{1,0} fusion(%x, %narrow), kind=kCustom, calls=%fused_dot
  %flags = f32[64]{0} all-gather(%square), dimensions={0}
  %done = f32[8,16]{1,0} all-reduce-done(%reduced)
  ROOT %copied = f32[8,16]{1,0} copy(%done)
}
"""
TURNS = 'backend_config={"known_trip_count":{"n":"3"}}'
HLO = HLO.replace("TURNS", TURNS)
BLOCK = 8 * 16 * 4  # bytes of one f32[8,16]


def test_launches_and_bytes():
    found = cost(HLO)
    assert found.launches == {
        "fusion kLoop": 3 * 2, "__cublas$gemm": 3, "broadcast": 1, "all-reduce-start": 1, "fusion kCustom": 1,
        "all-gather": 1, "copy": 1,
    }  # fmt: skip
    index = 4
    sliced = BLOCK + index + BLOCK  # reads one of twelve slices and the index, and writes the slice
    updated = BLOCK + index + BLOCK  # only a part of the updated array is written
    assert found.moved == {
        "fusion kLoop": 3 * (sliced + updated), "__cublas$gemm": 3 * 3 * BLOCK, "broadcast": 4 + 12 * BLOCK,
        "all-reduce-start": 2 * BLOCK, "fusion kCustom": BLOCK + BLOCK // 2 + 8 * 8 * 4,
        "all-gather": 8 * 8 * 4 + 64 * 4, "copy": 2 * BLOCK,
    }  # fmt: skip
    assert found.unknown_loops == 0


def test_loop_iterations_from_a_counter_and_a_constant():
    """XLA does not annotate the number of iterations in programs for TPUs."""
    assert cost(HLO.replace(TURNS, "")) == cost(HLO)


def test_loop_of_unknown_length_counts_once():
    found = cost(HLO.replace(TURNS, "").replace("direction=LT", "direction=NE"))
    assert found.launches["fusion kLoop"] == 2 and found.launches["compare"] == 1
    assert found.unknown_loops == 1


def test_branch_with_most_launches_counts():
    branches = """HloModule jit_f

%few (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %c = f32[2]{0} copy(%p)
}

%more (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %c = f32[2]{0} copy(%p)
  ROOT %n = f32[2]{0} negate(%c)
}

ENTRY %main (b: pred[], x: f32[2]) -> f32[2] {
  %b = pred[] parameter(0)
  %x = f32[2]{0} parameter(1)
  ROOT %y = f32[2]{0} conditional(%b, %x, %x), KEYS
}
"""
    for keys in ("true_computation=%more, false_computation=%few", "branch_computations={%few, %more}"):
        assert cost(branches.replace("KEYS", keys)).launches == {"copy": 1, "negate": 1, "conditional": 1}


def test_collectives():
    beside = 1  # only the product; the other collective is not counted
    assert collectives(HLO) == [Collective("all-reduce", 1, BLOCK, beside), Collective("all-gather", 1, 64 * 4, 0)]
    in_loop = HLO.replace("%slice = f32[8,16]{1,0} fusion(%stack, %i), kind=kLoop, calls=%fused_slice",
                          "%slice = f32[8,16]{1,0} all-reduce(%x), to_apply=%sum")  # fmt: skip
    assert collectives(in_loop)[0] == Collective("all-reduce", 3 + 1, 4 * BLOCK, beside)
    square = "%square = f32[8,8]{1,0} fusion(%x, %narrow), kind=kCustom, calls=%fused_dot"
    loop = "%other = (s32[], f32[12,8,16]{2,1,0}, f32[8,16]{1,0}) while(%start), condition=%again, body=%body, "
    loop += TURNS
    assert collectives(HLO.replace(square, f"{square}\n  {loop}"))[0].beside == beside + 3 * 3


@pytest.mark.parametrize("attributes, products", [
    ("", 1), (", operand_precision={highest,highest}", 0), (", algorithm=dot_tf32_tf32_f32_x3", 0),
    (", algorithm=dot_tf32_tf32_f32", 1),
])  # fmt: skip
def test_tf32_products(attributes, products):
    """The cuBLAS call uses the highest precision; the precision of the fused product depends on its attributes."""
    assert calls(HLO) == {"__cublas$gemm": 1}
    assert tf32_products(HLO.replace("rhs_contracting_dims={1}", "rhs_contracting_dims={1}" + attributes)) == products
