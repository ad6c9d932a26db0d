// Attention of a packed prefix tree in bfloat16, by tile or dot products; scores, softmax and sums are float32.
#pragma once

#include "elements.h"
#include "instruction_sets.h"
#include "tree_layout.h"

namespace instsel {

// Bytes of workspace that bfloat16_tree_attention needs for packed keys and values.
std::int64_t bfloat16_tree_attention_workspace(std::int64_t blocks, std::int64_t key_heads, std::int64_t head_size);

// `workspace` is aligned to 64 bytes. Head sizes up to 256. Needs avx512_bf16 or amx.
void bfloat16_tree_attention(const HeadsView<const std::uint16_t>& query, const HeadsView<const std::uint16_t>& key,
                             const HeadsView<const std::uint16_t>& value, const HeadsView<std::uint16_t>& out,
                             const TreeLayout& layout, const AttentionShape& shape, std::uint8_t* workspace,
                             int threads, InstructionSet instructions);

}  // namespace instsel
