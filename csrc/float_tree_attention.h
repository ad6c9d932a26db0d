// Attention of a packed prefix tree in float32, by AVX-512 fused multiply-adds.
#pragma once

#include "tree_layout.h"

namespace instsel {

bool has_float_tree_attention();

// Head sizes up to 256. Needs has_float_tree_attention().
void float_tree_attention(const HeadsView<const float>& query, const HeadsView<const float>& key,
                          const HeadsView<const float>& value, const HeadsView<float>& out, const TreeLayout& layout,
                          const AttentionShape& shape, int threads);

}  // namespace instsel
