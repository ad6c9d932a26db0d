// Queries, keys and values of attention as tiles, and its sums back as rows.
#pragma once

#if defined(__x86_64__)
#include <algorithm>
#include <cstdint>
#include <limits>

#include "attention/attention_rows.h"
#include "simd/tile_packing.h"

namespace instsel {

// Packed keys and values: per key head and block of 32 keys, the keys as left operands [head/32][2][tile], then the
// transposed values as left operands [head/16][tile].
struct PackedHeads {
    std::uint8_t* data;
    std::int64_t blocks;
    std::int64_t depth;  // tiles of 32 along the head

    std::int64_t block_bytes() const { return 4 * depth * tile_bytes; }
    std::uint8_t* keys(std::int64_t head, std::int64_t block) const {
        return data + (head * blocks + block) * block_bytes();
    }
    std::uint8_t* values(std::int64_t head, std::int64_t block) const {
        return keys(head, block) + 2 * depth * tile_bytes;
    }
};

// Up to 16 16-bit numbers, the rest zero.
INSTSEL_AVX512 INSTSEL_INLINE __m256i load_half(const std::uint16_t* source, std::int64_t count) {
    const __mmask16 mask = count >= 16 ? __mmask16(0xffff) : __mmask16((1u << count) - 1);
    return _mm256_maskz_loadu_epi16(mask, source);
}

INSTSEL_AVX512 inline void pack_block(const HeadsView<const std::uint16_t>& key,
                                      const HeadsView<const std::uint16_t>& value, std::int64_t head,
                                      std::int64_t first, std::int64_t count, std::int64_t head_size,
                                      std::uint8_t* keys, std::uint8_t* values) {
    for (std::int64_t half = 0; half < 2; ++half) {
        const std::int64_t rows = std::clamp<std::int64_t>(count - 16 * half, 0, 16);
        pack_left(key.at(first, head) + 16 * half * key.token_stride, key.token_stride, rows, head_size,
                  2 * tile_bytes, keys + half * tile_bytes);
    }
    for (std::int64_t column = 0; column < depth_tiles(head_size) * tile_depth; column += 16) {
        __m512i pairs[16];
        for (std::int64_t pair = 0; pair < 16; ++pair) {
            __m512i words = _mm512_setzero_si512();
            for (std::int64_t odd = 0; odd < 2; ++odd) {
                const std::int64_t left = std::max<std::int64_t>(0, head_size - column);
                if (2 * pair + odd >= count || left == 0) continue;
                const __m256i row = load_half(value.at(first + 2 * pair + odd, head) + column, left);
                const __m512i wide = _mm512_cvtepu16_epi32(row);
                words = _mm512_or_si512(words, odd != 0 ? _mm512_slli_epi32(wide, 16) : wide);
            }
            pairs[pair] = words;
        }
        store_transposed(pairs, values + column / 16 * tile_bytes);
    }
}

// Up to 32 rows of queries as right operands [head/32][2][tile]; of 16 rows or fewer only the first half is made.
INSTSEL_AVX512 inline void pack_queries(const HeadsView<const std::uint16_t>& query, const RowRange& rows,
                                        std::int64_t head_size, std::uint8_t* tiles) {
    for (int half = 0; 16 * half < rows.count; ++half) {
        const std::uint16_t* from[16];
        const int count = find_rows(query, rows, half, from);
        pack_columns([&](std::int64_t lane) { return from[lane]; }, count, head_size, 2 * tile_bytes,
                     tiles + half * tile_bytes);
    }
}

// Divides the sums of values [head/16][2][16, 16 rows] by the sums of probabilities and rounds them to bfloat16; whether
// they were finite.
INSTSEL_AMX_BF16 inline bool store_rows(const HeadsView<std::uint16_t>& out, const RowRange& rows,
                                        std::int64_t head_size, const __m512* sums, const float* sums_of_values) {
    const __m512 largest = _mm512_set1_ps(std::numeric_limits<float>::max());
    unsigned not_finite = 0;
    for (int half = 0; 16 * half < rows.count; ++half) {
        const __m512 factor = _mm512_div_ps(_mm512_set1_ps(1.0f), sums[half]);
        std::uint16_t* to[16];
        const int count = find_rows(out, rows, half, to);
        for (std::int64_t column = 0; column < head_size; column += 16) {
            __m512i lanes[16];
            const float* tile = sums_of_values + (column / 16 * 2 + half) * 256;
            for (int i = 0; i < 16; ++i) {
                lanes[i] = _mm512_castps_si512(_mm512_mul_ps(_mm512_load_ps(tile + 16 * i), factor));
            }
            transpose16(lanes);
            const std::int64_t left = head_size - column;
            const __mmask16 mask = left >= 16 ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
            for (int lane = 0; lane < count; ++lane) {
                const __m512 numbers = _mm512_castsi512_ps(lanes[lane]);
                not_finite |= _mm512_mask_cmp_ps_mask(mask, _mm512_abs_ps(numbers), largest, _CMP_NLE_UQ);
                _mm256_mask_storeu_epi16(to[lane] + column, mask, (__m256i)_mm512_cvtneps_pbh(numbers));
            }
        }
    }
    return not_finite == 0;
}

}  // namespace instsel
#endif
