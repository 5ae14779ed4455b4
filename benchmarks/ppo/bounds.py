"""The least time that an update's work can take on a machine, phase by phase.

N: weights that a token passes through. A matrix product counts 2 operations a weight and token forwards, 6 with the
backward pass. The attention's own products are left out (a few per cent at these lengths).
"""

from benchmarks.ppo import shapes
from benchmarks.ppo.machine import Roof
from benchmarks.ppo.shapes import Shape

GIGA = 1e9
OPERATIONS = {"C": (6,), "S": (6,), "L": (6, 4), "O": (4,)}
"""Operations a weight and token of training, of the policy and of a critic with a trunk of its own; frozen weights take
4. Of arms that are not here (6, 6)."""


def bounds(shape: Shape, roof: Roof, arm: str, mean_length: float) -> dict[str, float]:
    """Seconds of one update by phase: generate, measure (reference, critic, reward), train, optimizer."""
    flops = (roof.fp32 if arm in ("A", "B") else roof.bf16) * GIGA
    weight_bytes = 4 if arm in ("A", "B") else 2
    operations = OPERATIONS.get(arm, (6, 6))
    prompt = shape.batch * (shapes.MIN_PROMPT + shapes.MAX_PROMPT) / 2
    completion = shape.batch * mean_length
    trunk, head = shape.trunk_parameters, shape.head_parameters
    whole = trunk * (prompt + completion)
    decode_bytes = mean_length * (trunk + head) * weight_bytes / (roof.bandwidth * GIGA)
    decode = max(decode_bytes, 2 * (trunk + head) * completion / flops)
    whole_models = operations.count(6)
    trained = whole_models * (trunk + shape.vocabulary * shape.hidden)
    passes = shapes.NUM_PPO_EPOCHS
    return {
        "generate": 2 * trunk * prompt / flops + decode,
        "measure": 2 * ((1 + len(operations)) * whole + head * completion) / flops,
        "train": passes * (sum(operations) * whole + operations[0] * head * completion) / flops,
        "optimizer": passes * 28 * trained / (roof.bandwidth * GIGA),
    }
