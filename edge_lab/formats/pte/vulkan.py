"""Vulkan: a .pte program for the GPUs of Android phones. It is written on any machine and runs on a phone only."""

from __future__ import annotations

import logging

from edge_lab.bundle.folder import Runtime
from edge_lab.capture.exported import settled_program
from edge_lab.capture.target import Job, Program, exporter
from edge_lab.core.made_with import version_of
from edge_lab.core.quiet import quiet
from edge_lab.formats.pte.executorch import delegated


@exporter("vulkan", "pte", ("android",), ("fp32", "fp16"))
def export_vulkan(job: Job) -> Program:
    """Write model.pte: export, partition for Vulkan, lower, serialize.

    With fp16 the delegate stores and computes all floats inside in 16 bits; inputs and outputs stay float32. Operators
    that stay outside run on the CPU, in ExecuTorch's portable kernels, and every border between the two is a copy.
    """
    before = logging.root.manager.disable
    logging.disable(logging.INFO)  # the partitioner reports every step to the root logger
    try:
        with quiet():
            from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
            from executorch.exir import to_edge_transform_and_lower

            partitioner = VulkanPartitioner({"force_fp16": job.target.precision == "fp16"})
            edge = to_edge_transform_and_lower(settled_program(job, job.module), partitioner=[partitioner])
            share, left = delegated(edge.exported_program().graph_module)
            buffer = edge.to_executorch().buffer
    finally:
        logging.disable(before)
    (job.folder / "model.pte").write_bytes(buffer)
    version = version_of("executorch")
    return Program("model.pte", Runtime("pte", "vulkan", "executorch", version, version, share, left))
