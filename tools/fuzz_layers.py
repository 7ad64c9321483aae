"""Layers for the fuzzer: convolutions, norms, activations, pools, resizing, attention, recurrence."""

from __future__ import annotations

from fuzz_table import Code, Options, Shape, arguments, op

BOOL = (True, False)
WIDTHS = (4, 1, 3, 6, 8, 16)


def _groups(wanted: int | str, wide: int) -> int:
    return wide if wanted == "all" else int(wanted)


@op(
    3,
    4,
    out=WIDTHS,
    kernel=(1, 3, 2, 5, (3, 1)),
    stride=(1, 2, 3),
    padding=(0, 1, 2, "same", "valid"),
    dilation=(1, 2),
    groups=(1, 2, "all"),
    bias=BOOL,
    padding_mode=("zeros", "zeros", "reflect", "replicate", "circular"),
)
def conv(o: Options, x: Shape) -> Code:
    groups = _groups(o["groups"], x[1])
    out = x[1] * 2 if o["groups"] == "all" and o["out"] > 4 else x[1] if o["groups"] == "all" else o["out"]
    kernel = o["kernel"] if len(x) == 4 or isinstance(o["kernel"], int) else 3
    more = arguments(**{k: o[k] for k in ("stride", "padding", "dilation", "bias", "padding_mode")}, groups=groups)
    return Code("{m}({x})", f"nn.Conv{len(x) - 2}d({x[1]}, {out}, {kernel}, {more})")


@op(
    3,
    4,
    out=WIDTHS,
    kernel=(2, 3, 4, 1),
    stride=(2, 1, 3),
    padding=(0, 1),
    output_padding=(0, 1),
    dilation=(1, 2),
    groups=(1, 2, "all"),
    bias=BOOL,
)
def conv_transpose(o: Options, x: Shape) -> Code:
    groups = _groups(o["groups"], x[1])
    out = x[1] if o["groups"] == "all" else o["out"]
    more = arguments(**{k: o[k] for k in ("stride", "padding", "output_padding", "dilation", "bias")}, groups=groups)
    return Code("{m}({x})", f"nn.ConvTranspose{len(x) - 2}d({x[1]}, {out}, {o['kernel']}, {more})")


@op(2, 3, 4, out=(*WIDTHS, 5), bias=BOOL)
def linear(o: Options, x: Shape) -> Code:
    return Code("{m}({x})", f"nn.Linear({x[-1]}, {o['out']}, bias={o['bias']})")


@op(2, 3, 4, affine=BOOL, eps=(1e-5, 1e-3))
def batch_norm(o: Options, x: Shape) -> Code:
    return Code("{m}({x})", f"nn.BatchNorm{max(1, len(x) - 2)}d({x[1]}, affine={o['affine']}, eps={o['eps']})")


@op(2, 3, 4, axes=(1, 2, 3), affine=BOOL, bias=BOOL)
def layer_norm(o: Options, x: Shape) -> Code:
    shape = list(x[1:][-o["axes"] :])
    return Code("{m}({x})", f"nn.LayerNorm({shape}, elementwise_affine={o['affine']}, bias={o['bias']})")


@op(2, 3, 4, groups=(1, 2, 4, "all"), affine=BOOL)
def group_norm(o: Options, x: Shape) -> Code:
    return Code("{m}({x})", f"nn.GroupNorm({_groups(o['groups'], x[1])}, {x[1]}, affine={o['affine']})")


@op(3, 4, affine=(False, True), track=(False, True))
def instance_norm(o: Options, x: Shape) -> Code:
    more = f"affine={o['affine']}, track_running_stats={o['track']}"
    return Code("{m}({x})", f"nn.InstanceNorm{len(x) - 2}d({x[1]}, {more})")


@op(2, 3, 4)
def rms_norm(o: Options, x: Shape) -> Code:
    return Code("{m}({x})", f"nn.RMSNorm({x[-1]})")


ACTIVATIONS = (
    "nn.ReLU()",
    "nn.ReLU6()",
    "nn.ReLU(inplace=True)",
    "nn.SiLU()",
    "nn.Hardswish()",
    "nn.GELU()",
    "nn.GELU('tanh')",
    "nn.ELU()",
    "nn.ELU(0.5)",
    "nn.SELU()",
    "nn.CELU(0.7)",
    "nn.LeakyReLU()",
    "nn.LeakyReLU(0.3)",
    "nn.Mish()",
    "nn.Softplus()",
    "nn.Softplus(2.0)",
    "nn.Sigmoid()",
    "nn.Tanh()",
    "nn.Hardsigmoid()",
    "nn.Hardtanh(-0.5, 2.0)",
    "nn.Softsign()",
    "nn.LogSigmoid()",
    "nn.Hardshrink(0.1)",
    "nn.Softshrink(0.1)",
    "nn.Threshold(0.1, -0.2)",
    "nn.Tanhshrink()",
)


@op(layer=ACTIVATIONS)
def activation(o: Options, x: Shape) -> Code:
    return Code("{m}({x})", o["layer"])


@op(
    call=(
        "{x}.relu()",
        "F.relu6({x})",
        "{x} * torch.sigmoid({x})",
        "{x} * F.relu6({x} + 3) / 6",
        "0.5 * {x} * (1 + torch.erf({x} / 2 ** 0.5))",
        "{x}.abs()",
        "{x} ** 2",
        "({x} * {x} + 0.1).sqrt()",
        "({x}.abs() + 1).log()",
        "({x}.abs() + 0.5).rsqrt()",
        "({x}.clamp(-3, 3)).exp()",
        "torch.sin({x})",
        "torch.cos({x})",
        "1 / (1 + {x}.abs())",
        "-{x}",
        "{x}.clamp(min=0)",
        "{x}.clamp(-0.5, 1.5)",
        "{x}.abs() ** 1.5",
        "torch.atan({x})",
        "torch.expm1({x}.clamp(-2, 2))",
        "torch.log1p({x}.abs())",
        "F.elu({x}, inplace=False)",
    )
)
def function(o: Options, x: Shape) -> Code:
    return Code(o["call"])


@op(2, 3, 4, many=(False, True), init=(0.25, -0.5))
def prelu(o: Options, x: Shape) -> Code:
    return Code("{m}({x})", f"nn.PReLU({x[1] if o['many'] else 1}, init={o['init']})")


@op(kind=("softmax", "log_softmax", "softmin"), axis=(1, -1, 2, 3))
def softmax(o: Options, x: Shape) -> Code:
    return Code(f"F.{o['kind']}({{x}}, dim={o['axis'] if o['axis'] < len(x) else -1})")


@op(3, 4, axis=(1, -1, 2))
def glu(o: Options, x: Shape) -> Code:
    return Code(f"F.glu({{x}}, dim={o['axis']})")


@op(
    3,
    4,
    kernel=(2, 3, 1, (2, 3)),
    stride=(None, 2, 1, 3),
    padding=(0, 1),
    dilation=(1, 2),
    ceil_mode=(False, True),
)
def max_pool(o: Options, x: Shape) -> Code:
    kernel = o["kernel"] if len(x) == 4 or isinstance(o["kernel"], int) else 2
    more = arguments(**{k: o[k] for k in ("stride", "padding", "dilation", "ceil_mode")})
    return Code(f"F.max_pool{len(x) - 2}d({{x}}, {kernel}, {more})")


@op(
    3,
    4,
    kernel=(2, 3, 1, (2, 3)),
    stride=(None, 2, 1, 3),
    padding=(0, 1),
    ceil_mode=(False, True),
    count_include_pad=BOOL,
)
def avg_pool(o: Options, x: Shape) -> Code:
    kernel = o["kernel"] if len(x) == 4 or isinstance(o["kernel"], int) else 2
    more = arguments(**{k: o[k] for k in ("stride", "padding", "ceil_mode", "count_include_pad")})
    return Code(f"F.avg_pool{len(x) - 2}d({{x}}, {kernel}, {more})")


@op(3, 4, kind=("avg", "max"), size=(1, 2, 3, 5, (None, 1), (1, 4)))
def adaptive_pool(o: Options, x: Shape) -> Code:
    size = o["size"] if len(x) == 4 or isinstance(o["size"], int) else 2
    return Code(f"F.adaptive_{o['kind']}_pool{len(x) - 2}d({{x}}, {size})")


@op(3, 4, kind=("lp", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "response"))
def regroup(o: Options, x: Shape) -> Code:
    return Code(
        {
            "lp": f"F.lp_pool{len(x) - 2}d({{x}}, 2, 2)",
            "unfold": "F.unfold({x}, 3, padding=1, stride=2)",
            "pixel_shuffle": "F.pixel_shuffle({x}, 2)",
            "pixel_unshuffle": "F.pixel_unshuffle({x}, 2)",
            "channel_shuffle": "nn.functional.channel_shuffle({x}, 2)",
            "response": "F.local_response_norm({x}, 3)",
        }[o["kind"]]
    )


@op(
    3,
    4,
    mode=("nearest", "bilinear", "bicubic", "nearest-exact", "area"),
    to=("2", "1.5", "0.5", "1.3", "0.4", "size 7", "size 1", "size 4x9", "3"),
    corners=(False, True),
    recompute=(None, True),
    antialias=(False, False, True),
)
def resize(o: Options, x: Shape) -> Code:
    mode = "linear" if o["mode"] == "bilinear" and len(x) == 3 else o["mode"]
    smooth = mode in ("linear", "bilinear", "bicubic")
    if o["to"].startswith("size"):
        size = [int(n) for n in o["to"][5:].split("x")]
        to = f"size={tuple(size * 2)[: len(x) - 2]}"
    else:
        to = arguments(scale_factor=float(o["to"]), recompute_scale_factor=o["recompute"])
    more = arguments(align_corners=o["corners"] if smooth else None, antialias=True if o["antialias"] else None)
    return Code(f"F.interpolate({{x}}, {to}, mode={mode!r}{', ' if more else ''}{more})")


@op(
    3,
    4,
    left=(1, 0, 2, -1),
    right=(0, 1, 2),
    top=(0, 1, 2),
    mode=("constant", "reflect", "replicate", "circular"),
    value=(0.0, 1.5),
)
def pad(o: Options, x: Shape) -> Code:
    widths = (o["left"], o["right"], o["top"], 1) if len(x) == 4 else (o["left"], o["right"])
    return Code(f"F.pad({{x}}, {widths}, {arguments(mode=o['mode'], value=o['value'] or None)})")


@op(3, heads=(1, 2, 4), bias=BOOL, weights=(False, True), other=(False, True))
def attention(o: Options, x: Shape) -> Code:
    keys = "{x}.flip(1)" if o["other"] else "{x}"
    call = f"{{m}}({{x}}, {keys}, {keys}, need_weights={o['weights']})[{1 if o['weights'] else 0}]"
    return Code(call, f"nn.MultiheadAttention({x[-1]}, {o['heads']}, bias={o['bias']}, batch_first=True)")


@op(3, 4, mask=("no", "causal", "bool", "float", "inf"), scale=(None, 0.3))
def scaled_attention(o: Options, x: Shape) -> Code:
    n = x[-2]
    scale = f", scale={o['scale']}" if o["scale"] else ""
    triangle = f"torch.ones({n}, {n}).tril()"
    call = "F.scaled_dot_product_attention({x}, {x} * 0.5, {x}.flip(-2)"
    return {
        "no": Code(f"{call}{scale})"),
        "causal": Code(f"{call}, is_causal=True{scale})"),
        "bool": Code(f"{call}, attn_mask={{m}}{scale})", f"{triangle}.bool()"),
        "float": Code(f"{call}, attn_mask={{m}}{scale})", f"nn.Parameter(torch.randn({n}, {n}))"),
        "inf": Code(
            f"{call}, attn_mask={{m}}{scale})", f"torch.zeros({n}, {n}).masked_fill({triangle} == 0, -torch.inf)"
        ),
    }[o["mask"]]


@op(3, heads=(1, 2), first=(False, True), activation=("relu", "gelu"))
def transformer(o: Options, x: Shape) -> Code:
    more = f"dropout=0.1, activation={o['activation']!r}, batch_first=True, norm_first={o['first']}"
    return Code("{m}({x})", f"nn.TransformerEncoderLayer({x[-1]}, {o['heads']}, 8, {more})")


@op(
    3,
    kind=("LSTM", "GRU", "RNN"),
    hidden=(4, 3, 8),
    layers=(1, 2),
    bidirectional=(False, True),
    bias=BOOL,
    take=("[0]", "[0][:, -1]", "state"),
)
def recurrent(o: Options, x: Shape) -> Code:
    if x[1] > 12:
        raise ValueError("a long sequence is unrolled into hundreds of operators")
    take = o["take"] if o["take"] != "state" else "[1][0][-1]" if o["kind"] == "LSTM" else "[1][-1]"
    more = f"batch_first=True, bidirectional={o['bidirectional']}, bias={o['bias']}"
    return Code(f"{{m}}({{x}}){take}", f"nn.{o['kind']}({x[-1]}, {o['hidden']}, {o['layers']}, {more})")
