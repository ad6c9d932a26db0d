// Attention of a packed prefix tree in float32: scores, softmax and sums of values.
#pragma once

#include "attention/tree_layout.h"
#include "simd/elements.h"
#include "simd/instruction_sets.h"

namespace instsel {

// Head sizes up to 256.
void float_tree_attention(const AttentionTensors<float>& tensors, const TreeLayout& layout, const AttentionShape& shape,
                          int threads, InstructionSet instructions);

}  // namespace instsel
