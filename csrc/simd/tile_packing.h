// Packing of bfloat16 matrices into tiles of 1 KB, which both AMX and the dot products of AVX-512 read.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "simd/instruction_sets.h"

namespace instsel {

constexpr std::int64_t tile_bytes = 1024;  // 16 rows of 64 bytes
constexpr std::int64_t tile_depth = 32;    // bfloat16 numbers along the summed dimension

inline std::int64_t depth_tiles(std::int64_t depth) { return (depth + tile_depth - 1) / tile_depth; }

// Left operand: 16 rows, 32 numbers of each, as they are. Missing rows and numbers are zero.
INSTSEL_AVX512 inline void pack_left(const std::uint16_t* source, std::int64_t row_stride, std::int64_t rows,
                                     std::int64_t depth, std::int64_t tile_stride, std::uint8_t* target) {
    const std::int64_t whole = depth / tile_depth;
    for (std::int64_t tile = 0; tile < depth_tiles(depth); ++tile) {
        std::uint8_t* out = target + tile * tile_stride;
        const std::int64_t bytes = tile < whole ? 64 : 2 * (depth - tile * tile_depth);
        if (rows < 16 || bytes < 64) std::memset(out, 0, tile_bytes);
        for (std::int64_t row = 0; row < rows; ++row) {
            const std::uint16_t* from = source + row * row_stride + tile * tile_depth;
            if (bytes == 64) {
                std::memcpy(out + row * 64, from, 64);
            } else {
                std::memcpy(out + row * 64, from, std::size_t(bytes));
            }
        }
    }
}

// 16 vectors of 16 words each, rows made columns.
INSTSEL_AVX512 INSTSEL_INLINE void transpose16(__m512i* rows) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        rows[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        rows[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

// 16 vectors of 16 words as a tile whose rows were their columns.
INSTSEL_AVX512 INSTSEL_INLINE void store_transposed(__m512i* vectors, std::uint8_t* tile) {
    transpose16(vectors);
    for (int row = 0; row < 16; ++row) _mm512_store_si512(tile + row * 64, vectors[row]);
}

// Right operand: up to 16 columns, each of consecutive numbers at `column_at(i)`; the tile holds pairs of numbers of one
// column side by side.
template <class ColumnAt>
INSTSEL_AVX512 INSTSEL_INLINE void pack_columns(const ColumnAt& column_at, std::int64_t columns, std::int64_t depth,
                                                std::int64_t tile_stride, std::uint8_t* target) {
    for (std::int64_t tile = 0; tile < depth_tiles(depth); ++tile) {
        const std::int64_t left = depth - tile * tile_depth;
        const __mmask32 mask = left >= tile_depth ? ~__mmask32(0) : (__mmask32(1) << left) - 1;
        __m512i words[16];
        for (std::int64_t column = 0; column < 16; ++column) {
            words[column] = _mm512_setzero_si512();
            if (column >= columns) continue;
            words[column] = _mm512_maskz_loadu_epi16(mask, column_at(column) + tile * tile_depth);
        }
        store_transposed(words, target + tile * tile_stride);
    }
}

INSTSEL_AVX512 inline void pack_right(const std::uint16_t* source, std::int64_t row_stride, std::int64_t columns,
                                      std::int64_t depth, std::int64_t tile_stride, std::uint8_t* target) {
    const auto column_at = [=](std::int64_t column) { return source + column * row_stride; };
    pack_columns(column_at, columns, depth, tile_stride, target);
}

}  // namespace instsel
#endif
