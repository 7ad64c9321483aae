"""Operators of the reference interpreter that coremltools can't evaluate itself: against definitions, and PyTorch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edge_lab.formats.coreml.mil.operators import known_operators
from edge_lab.formats.coreml.mil.table import OPERATORS

_RNG = torch.Generator().manual_seed(0)
X = torch.randn(2, 4, 6, generator=_RNG)
PICTURE = torch.randn(1, 2, 5, 7, generator=_RNG)


def _run(name: str, **inputs: Any) -> Any:
    known_operators()
    return OPERATORS[name](inputs)


@pytest.mark.parametrize(
    ("mode", "outs", "places"),
    [  # the examples of Apple's reference: two pixels, 0 and 1
        ("UNALIGN_CORNERS", 5, [0, 0.1, 0.5, 0.9, 1]),
        ("STRICT_ALIGN_CORNERS", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", 5, [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("ALIGN_CORNERS", 1, [0.5]),
        ("STRICT_ALIGN_CORNERS", 1, [0]),
    ],
)
def test_grids_of_resize_are_apples(mode: str, outs: int, places: list[float]) -> None:
    line = torch.tensor([[[[0.0, 1.0]]]])
    found = _run("resize_bilinear", x=line, target_size_height=1, target_size_width=outs, sampling_mode=mode)
    assert found.flatten().tolist() == pytest.approx(places)


@pytest.mark.parametrize("size", [(3, 11), (10, 14), (5, 7)])
def test_linear_resizing_is_pytorchs_where_the_grids_agree(size: tuple[int, int]) -> None:
    sizes = {"target_size_height": size[0], "target_size_width": size[1]}
    for mode, aligned in (("ALIGN_CORNERS", True), ("UNALIGN_CORNERS", False)):
        wanted = F.interpolate(PICTURE, size=size, mode="bilinear", align_corners=aligned)
        torch.testing.assert_close(_run("resize_bilinear", x=PICTURE, sampling_mode=mode, **sizes), wanted)


def test_a_nearest_pixel_that_nobody_defines_is_not_guessed() -> None:
    assert _run("upsample_nearest_neighbor", x=PICTURE, scale_factor_height=2, scale_factor_width=1.0).shape[2] == 10
    with pytest.raises(NotImplementedError, match="nearest"):
        _run("upsample_nearest_neighbor", x=PICTURE, scale_factor_height=1.3, scale_factor_width=1.3)


def test_pools_without_strides_move_by_one() -> None:
    found = _run("max_pool", x=PICTURE, kernel_sizes=[2, 2], pad_type="valid")
    torch.testing.assert_close(found, F.max_pool2d(PICTURE, 2, 1))


@pytest.mark.parametrize(("kind", "pads"), [("same", (0, 1, 1, 1)), ("same_lower", (1, 0, 1, 1))])
def test_same_padding_puts_the_odd_pixel_where_it_belongs(kind: str, pads: tuple[int, ...]) -> None:
    x = PICTURE[..., :6]  # 5 x 6, steps of 2: one row of padding above and below, one column on one side
    found = _run("avg_pool", x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type=kind)
    torch.testing.assert_close(found, F.avg_pool2d(F.pad(x, pads), 3, 2))
    inside = _run(
        "avg_pool", x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type=kind, exclude_padding_from_average=True
    )
    share = F.avg_pool2d(F.pad(torch.ones_like(x), pads), 3, 2)
    torch.testing.assert_close(inside, F.avg_pool2d(F.pad(x, pads), 3, 2) / share)


def test_l2_pool_is_the_root_of_the_sum_of_squares() -> None:
    found = _run("l2_pool", x=PICTURE, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
    torch.testing.assert_close(found, F.lp_pool2d(PICTURE, 2, 2))


def test_scatter_writes_where_the_index_says() -> None:
    index, new = torch.tensor([2, 0]), torch.ones(2, 2, 6)
    added = _run("scatter", data=X, indices=index, updates=new, axis=1, mode="add")
    torch.testing.assert_close(added, X.index_add(1, index, new))
    written = _run("scatter", data=X, indices=torch.tensor([-1, 0]), updates=new, axis=1, mode="update")
    torch.testing.assert_close(written, X.index_copy(1, torch.tensor([3, 0]), new))
    order = X.argsort(1)
    along = _run("scatter_along_axis", data=X, indices=order, updates=2 * X, axis=1, mode="update")
    torch.testing.assert_close(along, X.scatter(1, order, 2 * X))
    rows = torch.tensor([[0, 1], [1, 3]])
    nd = _run("scatter_nd", data=X, indices=rows, updates=torch.zeros(2, 6), mode="update")
    wanted = X.clone()
    wanted[0, 1], wanted[1, 3] = 0, 0
    torch.testing.assert_close(nd, wanted)
    torch.testing.assert_close(_run("gather_nd", x=X, indices=rows), X[[0, 1], [1, 3]])


def test_what_devices_do_not_define_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="outside"):  # iOS 17: no negative index
        _run("gather", x=X, indices=torch.tensor([-1]), axis=1, validate_indices=False)
    with pytest.raises(NotImplementedError, match="outside"):
        _run("gather", x=X, indices=torch.tensor([4]), axis=1)
    with pytest.raises(NotImplementedError, match="twice"):
        twice = torch.tensor([1, 1])
        _run("scatter", data=X, indices=twice, updates=torch.ones(2, 2, 6), axis=1, mode="update")


def test_one_hot_non_zero_and_cumsum() -> None:
    index = torch.tensor([0, 2, 5])
    hot = _run("one_hot", indices=index, one_hot_vector_size=3, on_value=2.0, off_value=-1.0)
    assert hot.tolist() == [[2, -1, -1], [-1, -1, 2], [-1, -1, -1]]
    assert _run("non_zero", x=torch.tensor([0.0, 3.0])).tolist() == [[1]]
    assert _run("cumsum", x=torch.arange(1.0, 5), axis=0, exclusive=True).tolist() == [0, 1, 3, 6]
    assert _run("cumsum", x=torch.arange(1.0, 5), axis=0, reverse=True).tolist() == [10, 9, 7, 4]


def _mil_order(weight: torch.Tensor) -> torch.Tensor:
    i, f, g, o = weight.chunk(4)
    return torch.cat([i, f, o, g])


def test_a_bidirectional_lstm_is_pytorchs() -> None:
    torch.manual_seed(0)
    net = nn.LSTM(6, 3, bidirectional=True)
    x = torch.randn(5, 2, 6)
    wanted, (h, c) = net(x)
    p = {name: _mil_order(value.detach()) for name, value in net.named_parameters()}
    ends = {"": "", "_back": "_reverse"}
    weights = {f"weight_ih{mil}": p[f"weight_ih_l0{torch_}"] for mil, torch_ in ends.items()}
    weights |= {f"weight_hh{mil}": p[f"weight_hh_l0{torch_}"] for mil, torch_ in ends.items()}
    weights |= {f"bias{mil}": p[f"bias_ih_l0{torch_}"] + p[f"bias_hh_l0{torch_}"] for mil, torch_ in ends.items()}
    zero = torch.zeros(2, 6)
    found = _run(
        "lstm", x=x, initial_h=zero, initial_c=zero, direction="bidirectional", output_sequence=True, **weights
    )
    for got, want in zip(found, (wanted, torch.cat(list(h), -1), torch.cat(list(c), -1)), strict=True):
        torch.testing.assert_close(got, want)


def test_gru_and_rnn() -> None:
    torch.manual_seed(0)
    x, zero = torch.randn(5, 2, 6), torch.zeros(2, 3)
    rnn = nn.RNN(6, 3)
    p = {name: value.detach() for name, value in rnn.named_parameters()}
    given = {"weight_ih": p["weight_ih_l0"], "weight_hh": p["weight_hh_l0"]}
    bias = p["bias_ih_l0"] + p["bias_hh_l0"]
    rows, last = _run("rnn", x=x, initial_h=zero, bias=bias, output_sequence=True, **given)
    torch.testing.assert_close(rows, rnn(x)[0])
    torch.testing.assert_close(last, rows[-1])
    gru = nn.GRU(6, 3, bias=False)  # with a bias Core ML's is another function
    q = {name: torch.cat([w.chunk(3)[i] for i in (0, 2, 1)]).detach() for name, w in gru.named_parameters()}
    rows, _ = _run(
        "gru", x=x, initial_h=zero, weight_ih=q["weight_ih_l0"], weight_hh=q["weight_hh_l0"], output_sequence=True
    )
    torch.testing.assert_close(rows, gru(x)[0])


@pytest.mark.parametrize("aligned", [True, False])
def test_resample_is_grid_sample(aligned: bool) -> None:
    places = torch.rand(1, 3, 4, 2, generator=_RNG) * 2.4 - 1.2
    for ours, theirs in {"constant": "zeros", "border": "border"}.items():
        found = _run(
            "resample", x=PICTURE, coordinates=places, sampling_mode="bilinear", padding_mode=ours,
            coordinates_mode="normalized_minus_one_to_one", align_corners=aligned, padding_value=0.0,
        )  # fmt: skip
        torch.testing.assert_close(found, F.grid_sample(PICTURE, places, "bilinear", theirs, aligned))
    assert math.isfinite(float(found.sum()))
