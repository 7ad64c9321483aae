"""Deploy to and measure on a Linux board over ssh: `edge-lab bench --device ssh://pi@host`, `edge-lab deploy`."""

from __future__ import annotations

from edge_lab.devices.remote.bench import remote_bench
from edge_lab.devices.remote.sending import Sent, deploy, deploy_runner, sync
from edge_lab.devices.remote.ssh import Device, Facts, facts

__all__ = ["Device", "Facts", "Sent", "deploy", "deploy_runner", "facts", "remote_bench", "sync"]
