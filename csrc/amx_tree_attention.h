// Attention of a packed prefix tree in bfloat16, by AMX tile products; scores, softmax and sums are float32.
#pragma once

#include "elements.h"
#include "tree_layout.h"

namespace instsel {

// Bytes of workspace that amx_tree_attention needs for packed keys and values.
std::int64_t amx_tree_attention_workspace(std::int64_t blocks, std::int64_t key_heads, std::int64_t head_size);

// `workspace` is aligned to 64 bytes. Head sizes up to 256. Needs has_amx_bfloat16().
void amx_tree_attention(const HeadsView<const std::uint16_t>& query, const HeadsView<const std::uint16_t>& key,
                        const HeadsView<const std::uint16_t>& value, const HeadsView<std::uint16_t>& out,
                        const TreeLayout& layout, const AttentionShape& shape, std::uint8_t* workspace, int threads);

}  // namespace instsel
