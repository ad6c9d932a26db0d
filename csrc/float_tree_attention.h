// Attention of a packed prefix tree in float32: scores, softmax and sums of values.
#pragma once

#include "elements.h"
#include "instruction_sets.h"
#include "tree_layout.h"

namespace instsel {

// Head sizes up to 256.
void float_tree_attention(const HeadsView<const float>& query, const HeadsView<const float>& key,
                          const HeadsView<const float>& value, const HeadsView<float>& out, const TreeLayout& layout,
                          const AttentionShape& shape, int threads, InstructionSet instructions);

}  // namespace instsel
