// Packing of a mixture's weights, which lie in memory as their families have them, and the stores of their products.
#pragma once

#if defined(__x86_64__)
#include <cstdint>

#include "layer/bfloat16_experts.h"
#include "layer/block_stores.h"
#include "simd/tile_packing.h"

namespace instsel {

// 16 numbers that follow each other, or stand in every other place; not the one behind the last, which may be another's.
INSTSEL_AVX512 INSTSEL_INLINE __m512i load_numbers(const std::uint16_t* from, std::int64_t stride) {
    if (stride == 1) return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
    return _mm512_and_si512(_mm512_maskz_loadu_epi16(0x7fffffff, from), _mm512_set1_epi32(0xffff));
}

// 16 outputs of a weight whose outputs stand so, over a tile of the depth; as in pack_right.
INSTSEL_AVX512 inline void pack_outputs(const std::uint16_t* source, std::int64_t depth_stride,
                                        std::int64_t output_stride, std::uint8_t* tile) {
    for (std::int64_t pair = 0; pair < 16; ++pair) {
        const std::uint16_t* from = source + 2 * pair * depth_stride;
        const __m512i first = load_numbers(from, output_stride);
        const __m512i second = load_numbers(from + depth_stride, output_stride);
        _mm512_store_si512(tile + 64 * pair, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
    }
}

// Some tiles of the depth.
struct DepthPart {
    std::int64_t first, tiles;

    std::int64_t block_bytes() const { return 2 * tiles * tile_bytes; }
};

// One half of `blocks` blocks [tiles of the part][2][tile]: of each 16 outputs, `step` behind those of the last.
INSTSEL_AVX512 inline void pack_half(const ExpertWeights& from, std::int64_t expert, std::int64_t output,
                                     std::int64_t step, std::int64_t blocks, const DepthPart& part,
                                     std::uint8_t* target) {
    const auto* data = reinterpret_cast<const std::uint16_t*>(from.data) + expert * from.expert_stride +
                       output * from.output_stride + part.first * tile_depth * from.depth_stride;
    if (from.depth_stride == 1) {
        for (std::int64_t block = 0; block < blocks; ++block) {
            pack_right(data + block * step * from.output_stride, from.output_stride, 16, part.tiles * tile_depth,
                       2 * tile_bytes, target + block * part.block_bytes());
        }
        return;
    }
    // Row by row of what lies in memory, each perhaps in a page of its own.
    for (std::int64_t tile = 0; tile < part.tiles; ++tile) {
        for (std::int64_t block = 0; block < blocks; ++block) {
            pack_outputs(data + tile * tile_depth * from.depth_stride + block * step * from.output_stride,
                         from.depth_stride, from.output_stride,
                         target + block * part.block_bytes() + 2 * tile * tile_bytes);
        }
    }
}

// The biases of `count` outputs.
inline void copy_bias(const ExpertWeights& from, std::int64_t expert, std::int64_t output, std::int64_t count,
                      float* to) {
    for (std::int64_t i = 0; i < count; ++i) {
        to[i] = from.bias == nullptr ? 0.0f
                                     : to_float(from.bias[expert * from.bias_expert_stride +
                                                          (output + i) * from.bias_stride]);
    }
}

// Gated rows, packed as the left operand of the next product: [groups of 32 rows][depth tiles][2][tile].
struct StoreExpertGate {
    ExpertGate gate;
    const float* bias;  // of the panel's outputs, those of the gates and of the up projections
    std::int64_t panel_outputs;
    std::uint8_t* out;  // of the panel's first output and the expert's first row
    std::int64_t group_bytes;
    std::int64_t first;  // output of the panel

    INSTSEL_INLINE void fetch(const Block&, int) const {}

    INSTSEL_AMX_BF16 INSTSEL_INLINE void operator()(const Block& block, int row) const {
        const float* sums = block.sums + row / 16 * 512 + row % 16 * 16;
        const std::int64_t column = 16 * block.index, place = first + column;
        const __m512 limit = _mm512_set1_ps(gate.limit), lowest = _mm512_set1_ps(-gate.limit);
        const __m512 g = _mm512_add_ps(_mm512_load_ps(sums), _mm512_loadu_ps(bias + column));
        const __m512 u = _mm512_add_ps(_mm512_load_ps(sums + 256), _mm512_loadu_ps(bias + panel_outputs + column));
        const __m512 a = _mm512_min_ps(limit, g), c = _mm512_min_ps(limit, _mm512_max_ps(lowest, u));
        const __m512 active = gate.gelu_tanh ? gelu_tanh16(a) : times_sigmoid(a, gate.alpha);
        const __m512 gated = _mm512_mul_ps(active, _mm512_add_ps(c, _mm512_set1_ps(gate.offset)));
        std::uint8_t* to = out + block.row / block_rows * group_bytes + place / tile_depth * 2 * tile_bytes +
                           row / 16 * tile_bytes + row % 16 * 64 + place % tile_depth * 2;
        _mm256_store_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(gated));
    }

    INSTSEL_AMX_BF16 INSTSEL_INLINE static __m512 times_sigmoid(__m512 x, float alpha) {
        const __m512 power = _mm512_min_ps(_mm512_set1_ps(80.0f), _mm512_mul_ps(_mm512_set1_ps(-alpha), x));
        return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp16(power)));
    }
};

struct StoreExpert {
    const float* bias;  // of the panel's outputs
    bfloat16* out;      // of the panel's first output and the expert's first row
    std::int64_t columns;

    INSTSEL_INLINE void fetch(const Block& block, int row) const {
        fetch_line(out + (block.row + row) * columns + 32 * block.index);
    }

    INSTSEL_AMX_BF16 INSTSEL_INLINE void operator()(const Block& block, int row) const {
        const float* sums = block.sums + row / 16 * 512 + row % 16 * 16;
        const float* addends = bias + 32 * block.index;
        const __m512 low = _mm512_add_ps(_mm512_load_ps(sums), _mm512_loadu_ps(addends));
        const __m512 high = _mm512_add_ps(_mm512_load_ps(sums + 256), _mm512_loadu_ps(addends + 16));
        _mm512_storeu_si512(out + (block.row + row) * columns + 32 * block.index,
                            (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
};

}  // namespace instsel
#endif
