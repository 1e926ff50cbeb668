"""Weight decay and layer-wise learning rate of each variable, by its name."""

import re
from collections.abc import Sequence

import tensorflow as tf

# `block3_query`, `stage2_block1_conv`, and in `keras.applications` also `conv2_block1_1_conv`,
# `block_3_expand` or `block4b_project_conv`: everything up to there names the block.
_BLOCK = re.compile(r"^(.*?block_?\d+[a-z]?)(?![0-9a-z])")


def decayed(variable: tf.Variable) -> bool:
    """Whether weight decay applies: to kernels, of depthwise convolutions too.

    Biases, norm scales, LayerScale, class tokens and positions are not decayed (Goyal et al. 2017,
    s5.3; Touvron et al. 2021, s6). In Keras, the name of every matrix that multiplies features ends
    in `kernel`; a custom layer must follow this rule for its matrix to be decayed.

    Args:
      variable: of a layer, not a replica's copy, which has another name.
    """
    name = variable.name.split("/")[-1].split(":")[0]
    return len(variable.shape) > 1 and name.endswith("kernel")


def layer_factors(names: Sequence[str], decay: float) -> tuple[float, ...]:
    """Factor of the learning rate of each variable (Bao et al. 2022, appendix).

    Depth 0 is everything before the first block (patches, positions, tokens, a stem), 1 to L are
    the blocks in order, L + 1 is everything after the last (norm and classifier). A variable at
    depth d has the factor `decay ** (L + 1 - d)`; one between two blocks belongs to the first.

    Args:
      names: of all variables of a model in its own order.
      decay: in (0, 1]; 1 is off.

    Raises:
      ValueError: `decay` is not 1, and no name contains a block.
    """
    if decay == 1.0:
        return (1.0,) * len(names)
    blocks: dict[str, int] = {}
    depths, last_named = [], -1
    for position, name in enumerate(names):
        if found := _BLOCK.match(name):
            last_named = position
            depths.append(blocks.setdefault(found[1], len(blocks) + 1))
        else:
            depths.append(len(blocks))
    if not blocks:
        raise ValueError(
            f"optim.layer_decay={decay} needs layers named by block, such as block3_query or "
            f"stage2_block1_conv, got {', '.join(list(names)[:3]) or 'none'}...; set it to 1"
        )
    depths[last_named + 1 :] = [len(blocks) + 1] * (len(depths) - last_named - 1)
    return tuple(decay ** (len(blocks) + 1 - depth) for depth in depths)
