"""Operators of tensors for the fuzzer: shapes, slices, reductions, arithmetic of one and of two values."""

from __future__ import annotations

from math import prod

from fuzz_table import Code, Options, Shape, broadcast, op

AXES = (1, -1, 2, 3)
BOOL = (False, True)


def _axis(axis: int, x: Shape) -> int:
    return axis if -len(x) <= axis < len(x) else -1


@op(3, 4, start=(1, 2))
def flatten(o: Options, x: Shape) -> Code:
    return Code(f"{{x}}.flatten({o['start']})")


@op(3, 4)
def tokens(o: Options, x: Shape) -> Code:
    return Code("{x}.flatten(2).transpose(1, 2)")


@op(
    2,
    3,
    4,
    shape=("split first", "split last", "merge", "view -1", "heads", "windows", "column", "row"),
    kind=("reshape", "view"),
)
def reshape(o: Options, x: Shape) -> Code:
    b, c, *rest = x
    last = rest[-1] if rest else c
    shape = {
        "split first": (b, 2, c // 2, *rest),
        "split last": (*x[:-1], last // 2, 2),
        "merge": (b, c * (rest[0] if rest else 1), *rest[1:]),
        "view -1": (b, -1, 2),
        "heads": (b, 2, -1, last),
        "windows": (b, -1, c),
        "column": (b, -1, 1),
        "row": (b, 1, -1),
    }[o["shape"]]
    if len(shape) > 5:
        raise ValueError("more dimensions than people use")
    call = "{x}.reshape" if o["kind"] == "reshape" else "{x}.contiguous().view"
    return Code(f"{call}{shape}")


@op(2, 3, 4, 5, one=(1, 2, -1), two=(-1, 1, 2, -2))
def transpose(o: Options, x: Shape) -> Code:
    return Code(f"{{x}}.transpose({o['one']}, {o['two']})")


@op(3, 4, 5, turn=(1, 2), back=BOOL)
def permute(o: Options, x: Shape) -> Code:
    axes = list(range(1, len(x)))
    axes = axes[o["turn"] :] + axes[: o["turn"]]
    if o["back"]:
        axes.reverse()
    return Code(f"{{x}}.permute(0, {', '.join(map(str, axes))})")


@op(3, 4, 5, axis=AXES)
def squeeze(o: Options, x: Shape) -> Code:
    return Code(f"{{x}}.squeeze({_axis(o['axis'], x)})")


@op(2, 3, axis=(1, -1, 2))
def unsqueeze(o: Options, x: Shape) -> Code:
    return Code(f"{{x}}.unsqueeze({o['axis']})")


@op(2, 3, 4, axis=AXES, start=(0, 1, -3), stop=(None, -1, 3), step=(1, 2))
def slice_(o: Options, x: Shape) -> Code:
    axis = _axis(o["axis"], x) % len(x)
    cut = ":".join("" if n in (None, 0) else str(n) for n in (o["start"], o["stop"]))
    step = f":{o['step']}" if o["step"] > 1 else ""
    return Code(f"{{x}}[{':, ' * axis}{cut}{step}]")


@op(3, 4, axis=(1, 2, 3), at=(0, -1, 1))
def select(o: Options, x: Shape) -> Code:
    return Code(f"{{x}}.select({_axis(o['axis'], x)}, {o['at']})")


@op(2, 3, 4, axis=AXES, keep=(0, 1, -1), how=("chunk", "split", "unbind", "tensor_split"))
def parts(o: Options, x: Shape) -> Code:
    axis = _axis(o["axis"], x)
    call = {"chunk": f"chunk(2, {axis})", "split": f"split(2, {axis})", "unbind": f"unbind({axis})"}
    return Code(f"{{x}}.{call.get(o['how'], f'tensor_split(3, {axis})')}[{o['keep']}]")


@op(2, 3, 4, axis=AXES, scale=(2.0, -1.0))
def cut_and_join(o: Options, x: Shape) -> Code:
    axis = _axis(o["axis"], x)
    half = x[axis] // 2
    if not half:
        raise ValueError("nothing to cut")
    one, two = f"{{x}}.narrow({axis}, 0, {half})", f"{{x}}.narrow({axis}, {half}, {x[axis] - half})"
    return Code(f"torch.cat([{two} * {o['scale']}, {one}], {axis})")


@op(2, 3, 4, axis=AXES, by=(1, -2, 3), how=("roll", "flip", "index", "repeat", "interleave", "expand"))
def move(o: Options, x: Shape) -> Code:
    axis = _axis(o["axis"], x) % len(x)
    repeats = tuple(2 if i == axis else 1 for i in range(len(x)))
    order = [i for i in range(x[axis]) if i % 3 != 1] or [0]
    return Code(
        {
            "roll": f"torch.roll({{x}}, {o['by']}, {axis})",
            "flip": f"{{x}}.flip({axis})",
            "index": f"{{x}}.index_select({axis}, {{m}})",
            "repeat": f"{{x}}.repeat{repeats}",
            "interleave": f"{{x}}.repeat_interleave(2, {axis})",
            "expand": f"{{x}}.mean({axis}, keepdim=True).expand{x}",
        }[o["how"]],
        f"torch.tensor({order})" if o["how"] == "index" else "",
    )


@op(
    2,
    3,
    4,
    how=("mean", "amax", "sum", "amin", "var", "std", "norm", "logsumexp", "prod", "max", "median", "cumsum"),
    axis=(-1, 1, 2, (2, 3), (1, 2), (1, 2, 3), (-2, -1)),
    keepdim=(True, False),
)
def reduce(o: Options, x: Shape) -> Code:
    axis = o["axis"] if isinstance(o["axis"], int) else tuple(o["axis"])
    keep = f"keepdim={o['keepdim']}"
    if o["how"] == "norm":
        return Code(f"torch.linalg.vector_norm({{x}}, dim={axis}, {keep})")
    if o["how"] == "cumsum":
        return Code(f"{{x}}.cumsum({axis})")
    if o["how"] in ("var", "std"):
        return Code(f"{{x}}.{o['how']}({axis}, unbiased=False, {keep})")
    return Code(f"{{x}}.{o['how']}({axis}, {keep}){'[0]' if o['how'] in ('max', 'median') else ''}")


@op(2, 3, 4, by=("norm", "mean square", "sum", "max", "scalar", "l2", "standard"), axis=(1, -1, (1, 2)))
def normalize(o: Options, x: Shape) -> Code:
    axis = o["axis"] if isinstance(o["axis"], int) else tuple(o["axis"])
    return Code(
        {
            "norm": f"{{x}} / ({{x}}.norm(dim={axis}, keepdim=True) + 1e-3)",
            "mean square": f"{{x}} / (({{x}} * {{x}}).mean({axis}, keepdim=True) + 0.1)",
            "sum": f"{{x}} / ({{x}}.abs().sum({axis}, keepdim=True) + 0.1)",
            "max": f"{{x}} / ({{x}}.abs().amax({axis}, keepdim=True) + 0.1)",
            "scalar": "{x} / (torch.mean({x} ** 2) + 0.1)",
            "l2": f"F.normalize({{x}}, dim={axis if isinstance(axis, int) else 1})",
            "standard": f"({{x}} - {{x}}.mean({axis}, keepdim=True)) / ({{x}}.std({axis}, keepdim=True) + 0.1)",
        }[o["by"]]
    )


@op(
    what=("* {n}", "+ {n}", "- {n}", "/ {n}", "* {m} channel", "+ {m} channel", "+ {m} last", "* {m} number"),
    n=(2.0, 0.1, 100.0, 1e-3, -1.5),
    store=("nn.Parameter", ""),
)
def scale(o: Options, x: Shape) -> Code:
    sign, which, *place = o["what"].split()
    if which == "{n}":
        return Code(f"{{x}} {sign} {o['n']}")
    shape = {"channel": (x[1], *[1] * (len(x) - 2)), "last": (x[-1],), "number": (1,)}[place[0]]
    number = f"torch.rand{shape} + 0.5".replace(",)", ")")
    return Code(f"{{x}} {sign} {{m}}", f"nn.Parameter({number})" if o["store"] else number)


@op(2, 3, 4, 5, out=(4, 2, 5))
def matmul(o: Options, x: Shape) -> Code:
    return Code("{x} @ {m}", f"nn.Parameter(torch.randn({x[-1]}, {o['out']}) / {x[-1]} ** 0.5)")


@op(3, 4, eq=("gram", "einsum", "outer", "bmm"))
def product(o: Options, x: Shape) -> Code:
    letters = "bcde"[: len(x)]
    return Code(
        {
            "gram": f"{{x}} @ {{x}}.transpose(-1, -2) / {x[-1]}",
            "einsum": f"torch.einsum('{letters},{letters}->{letters[:-1]}', {{x}}, {{x}}) / {x[-1]}",
            "outer": "({x}.mean(-1).unsqueeze(-1) * {x}.mean(-2).unsqueeze(-2))",
            "bmm": f"torch.matmul({{x}}.flatten(0, -3), {{x}}.flatten(0, -3).mT) / {x[-1]}",
        }[o["eq"]]
    )


@op(2, 3, 4, how=("where 0", "masked_fill", "maximum 0", "compare", "clamp"), n=(0.0, 0.3))
def choose(o: Options, x: Shape) -> Code:
    n = o["n"]
    return Code(
        {
            "where 0": f"torch.where({{x}} > {n}, {{x}}, ({{x}} - {n}) * 0.3 + {n})",
            "masked_fill": f"{{x}}.masked_fill({{x}} < {n}, {n})",
            "maximum 0": f"torch.maximum({{x}}, torch.full_like({{x}}, {n}))",
            "compare": f"({{x}} - {n}) * ({{x}} > {n})",
            "clamp": f"{{x}} - ({{x}} - {n}).clamp(max=0)",
        }[o["how"]]
    )


@op(2, 3, 4, depth=(8, 1), seen=BOOL)
def gate(o: Options, x: Shape) -> Code:
    """Squeeze and excitation, written with a linear layer."""
    axes = tuple(range(2, len(x)))
    mean = f"{{x}}.mean({axes})" if axes else "{x}"
    back = f"[{', '.join([':', ':', *['None'] * len(axes)])}]"
    return Code(f"{{x}} * torch.sigmoid({{m}}({mean})){back}", f"nn.Linear({x[1]}, {x[1]})")


@op(fits=broadcast)
def add(o: Options, x: Shape, y: Shape) -> Code:
    return Code("{x} + {y}")


@op(
    fits=broadcast,
    call=(
        "{x} * {y}",
        "{x} - {y}",
        "torch.maximum({x}, {y})",
        "torch.minimum({x}, {y})",
        "{x} / ({y}.abs() + 0.5)",
        "torch.where({x} > {y}, {x}, {y})",
        "{x} * torch.sigmoid({y})",
        "torch.add({x}, {y}, alpha=0.5)",
        "torch.lerp({x}, {y}, 0.3)",
        "torch.atan2({x}, {y}.abs() + 1)",
    ),
)
def combine(o: Options, x: Shape, y: Shape) -> Code:
    return Code(o["call"])


def _but_one(x: Shape, y: Shape) -> bool:
    return len(x) == len(y) and len(x) > 1 and sum(a != b for a, b in zip(x, y, strict=True)) <= 1 and x[0] == y[0]


@op(2, 3, 4, fits=_but_one, axis=(1, -1, 2), three=BOOL)
def cat(o: Options, x: Shape, y: Shape) -> Code:
    differs = [i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b]
    axis = differs[0] if differs else _axis(o["axis"], x)
    return Code(f"torch.cat([{{x}}, {{y}}{', {x}' if o['three'] else ''}], {axis})")


@op(2, 3, fits=lambda x, y: x == y, axis=(1, -1, 2))
def stack(o: Options, x: Shape, y: Shape) -> Code:
    return Code(f"torch.stack([{{x}}, {{y}}], {o['axis']})")


@op(2, 3, 4, fits=lambda x, y: len(x) == len(y) > 1 and x[-1] == y[-2] and x[:-2] == y[:-2])
def multiply(o: Options, x: Shape, y: Shape) -> Code:
    return Code(f"{{x}} @ {{y}} / {x[-1]}")


@op(4, fits=lambda x, y: len(x) == len(y) == 4)
def resize_like(o: Options, x: Shape, y: Shape) -> Code:
    return Code("F.interpolate({x}, size={y}.shape[2:], mode='bilinear', align_corners=False)")


def size(shape: Shape) -> int:
    """How many numbers a value of this shape has."""
    return prod(shape)
