"""Run the firmwares of the digits and of speech in QEMU and record what it costs: `python tools/firmware_results.py`.

Writes docs/results/firmware.json, which lab 18 shows where no ARM tools are installed. 100 test digits each, five
recordings; every output byte is compared with the same C on this machine. Needs `make arm-tools`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import edge_lab
from edge_lab import data, measure, zoo
from edge_lab.devices import firmware
from edge_lab.devices.firmware.command import describe, measurements
from edge_lab.measure.record import now

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs/results/firmware.json"
BOARD = "netduinoplus2"


def main() -> None:
    test, some = data.load("handwriting", "test"), data.load("handwriting", "train", limit=128)
    items: list[measure.Measurement] = []
    date = now()
    for name in ("digitnet", "digitnet_tiny"):
        model = zoo.create(name)
        x = measure.prepare(test.take(100), model.spec).x
        for core in ("cortex-m4", "cortex-m3", "cortex-m0"):
            bundle = edge_lab.to(model, f"mcu-{core}-int8", calibration=some, golden=test, out=ROOT / "artifacts")
            found = firmware.run(bundle, BOARD, inputs=[x[i : i + 1] for i in range(len(x))])
            print(describe(bundle, found))
            if not found.ok:
                raise SystemExit(f"{bundle.name}: answers differ")
            whole = measurements(bundle, found, date, "python tools/firmware_results.py")
            items += whole.items
    sounds = data.load_sounds("spoken-digits")
    hears = edge_lab.to(
        zoo.create("speechnet_features"),
        "mcu-cortex-m4-int8",
        calibration=sounds,
        golden=sounds,
        out=ROOT / "artifacts",
    )
    found = firmware.run(hears, BOARD)  # its golden recordings: samples in, features and scores compared
    print(describe(hears, found))
    if not found.ok:
        raise SystemExit(f"{hears.name}: answers differ")
    items += measurements(hears, found, date).items
    replace(whole, items=tuple(items)).save(OUT)


if __name__ == "__main__":
    main()
