// Attention of a packed prefix tree in bfloat16, by tile or dot products; scores, softmax and sums are float32.
#pragma once

#include "attention/tree_layout.h"
#include "simd/elements.h"
#include "simd/instruction_sets.h"

namespace instsel {

// Bytes of workspace that bfloat16_tree_attention needs for packed keys and values.
std::int64_t bfloat16_tree_attention_workspace(std::int64_t blocks, std::int64_t key_heads, std::int64_t head_size);

// `workspace` is aligned to 64 bytes. Head sizes up to 256. Needs avx512_bf16 or amx.
void bfloat16_tree_attention(const AttentionTensors<std::uint16_t>& tensors, const TreeLayout& layout,
                             const AttentionShape& shape, std::uint8_t* workspace, int threads,
                             InstructionSet instructions);

}  // namespace instsel
