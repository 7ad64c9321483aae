"""Which layers lose the accuracy when a network is quantized: a report that points at them, worst first."""

from __future__ import annotations

from edge_lab.compress.sensitive.report import Sensitivity
from edge_lab.compress.static.inputs import Inputs, arrays, calibration_arrays
from edge_lab.compress.static.quantize import StaticInt8, observed, remedy
from edge_lab.core.quiet import quiet
from edge_lab.zoo import Model

IMAGES = 4
_CORRECTION_INPUTS = 8


def sensitivity(
    model: Model, inputs: Inputs, config: StaticInt8 | None = None, *, calibration: Inputs | None = None
) -> Sensitivity:
    """Find out which layers a static int8 recipe hurts, by simulating it beside the float network.

    For every input the network runs once in float, once in int8, and once for each layer with that layer alone in int8
    (only from that layer on). EfficientNet-Lite0, with 61 layers, takes 11 to 17 s on one core for four inputs, the
    capture and the calibration included.

    Args:
        model: float32, a module that takes one tensor; it is not changed. A model with several outputs is judged by
            the first.
        inputs: real images, or arrays of the model's shape; at most 4 are used, evenly spread.
        config: the recipe; default StaticInt8().
        calibration: what the ranges are read from; default: 32 crops of shipped photos, as `edge_lab.to` takes.

    Raises:
        InputError: no inputs, or unusable ones; the model is quantized already or holds NaN; a pattern in
            `config.keep_float` matches nothing.
        ExportError: nothing in the model can be quantized.
    """
    from edge_lab.compress.sensitive.graph import Simulation

    config = config or StaticInt8()
    rows = arrays(inputs, model, "evaluation", IMAGES)
    pictures = calibration_arrays(calibration, model)
    prepared = observed(model.module, rows[0], pictures, config)
    simulation = Simulation(prepared, model.module)
    with quiet():
        remedy(prepared, pictures, config)
    simulation.correct_each(pictures[:_CORRECTION_INPUTS])
    simulation.run(rows)
    layers = sorted(simulation.layers(), key=lambda layer: (layer.own_db, layer.order))
    return Sensitivity(model.spec.name, config, tuple(layers), simulation.output_db, len(rows))
