"""The least time that an update's work can take on a machine, phase by phase.

N: weights that a token passes through. A matrix product counts 2 operations a weight and token forwards, 6 with the
backward pass. The attention's own products are left out (a few per cent at these lengths).
"""

from benchmarks.ppo import shapes
from benchmarks.ppo.machine import Roof
from benchmarks.ppo.shapes import Shape

GIGA = 1e9


def bounds(shape: Shape, roof: Roof, arm: str, mean_length: float) -> dict[str, float]:
    """Seconds of one update by phase: generate, measure (reference, critic, reward), train, optimizer."""
    flops = (roof.bf16 if arm in ("B16", "C") else roof.fp32) * GIGA
    weight_bytes = 2 if arm in ("B16", "C") else 4
    prompt = shape.batch * (shapes.MIN_PROMPT + shapes.MAX_PROMPT) / 2
    completion = shape.batch * mean_length
    trunk, head = shape.trunk_parameters, shape.head_parameters
    whole = trunk * (prompt + completion)
    decode_bytes = mean_length * (trunk + head) * weight_bytes / (roof.bandwidth * GIGA)
    decode = max(decode_bytes, 2 * (trunk + head) * completion / flops)
    trunks = 1 if arm == "C" else 2
    trained = trunks * trunk + head + (shape.vocabulary * shape.hidden if trunks == 2 else 0)
    passes = shapes.NUM_PPO_EPOCHS
    return {
        "generate": 2 * trunk * prompt / flops + decode,
        "measure": 2 * ((1 + trunks) * whole + head * completion) / flops,
        "train": 6 * passes * (trunks * whole + head * completion) / flops,
        "optimizer": passes * 28 * trained / (roof.bandwidth * GIGA),
    }
