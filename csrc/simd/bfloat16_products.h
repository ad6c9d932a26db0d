// Sums of products of packed bfloat16 tiles, by AMX or by the dot products of AVX-512: two classes with the same
// functions, between which the kernels choose by a template parameter.
//
// A left operand is two halves of 16 rows for each tile of 32 numbers, packed or where they lie in a matrix; a right one is
// [tile][2][16 pairs of numbers][16 columns][2], the sums are [left half][right half][16][16] floats. All numbers are
// added to a sum in the order of their depth, two at a time: a row's sums are the same bits in any company. With
// `halves` 1 the second half of the right operand is left out.
//
// Both are compiled for AMX, so that one body of the kernels can take either; no tile instruction is in the second.
#pragma once

#if defined(__x86_64__)
#include <cstring>

#include "simd/amx_tiles.h"
#include "simd/tile_packing.h"

namespace instsel {

// A left operand whose tiles follow each other.
struct ConsecutiveTiles {
    static constexpr std::int64_t row_bytes = 64, half_bytes = tile_bytes;
    const std::uint8_t* first;

    INSTSEL_INLINE const std::uint8_t* operator()(std::int64_t tile) const { return first + 2 * tile * tile_bytes; }
};

// A left operand that is 32 rows of a matrix, read where they are.
struct MatrixRows {
    const std::uint8_t* first;
    std::int64_t row_bytes;
    std::int64_t half_bytes;

    INSTSEL_INLINE const std::uint8_t* operator()(std::int64_t tile) const { return first + tile * 64; }
};

// Which operand is not to displace the other in the first-level cache.
enum class Streamed { none, left, right };

// `left(tile)` points to both halves of a left tile; `between(tile)` is called after each, for arithmetic that can run
// beside the products.
struct AmxProducts {
    static constexpr std::int64_t second_level_cache = 2 << 20;  // bytes, of the processors that have them

    INSTSEL_AMX_BF16 static void begin() { configure_tiles(); }
    INSTSEL_AMX_BF16 static void end() { release_tiles(); }

    template <int halves, Streamed streamed, class Left, class Between>
    INSTSEL_AMX_BF16 INSTSEL_INLINE static void multiply(const Left& left, const std::uint8_t* right,
                                                         std::int64_t tiles, bool add, float* sums,
                                                         const Between& between) {
        if (add) {
            load_sums<halves>(sums);
        } else {
            zero_sums<halves>();
        }
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
            const std::uint8_t* from = left(tile);
            if (streamed == Streamed::left) {
                _tile_stream_loadd(4, from, left.row_bytes);
            } else {
                _tile_loadd(4, from, left.row_bytes);
            }
            if (streamed == Streamed::right) {
                _tile_stream_loadd(6, right + 2 * tile * tile_bytes, 64);
                if (halves == 2) _tile_stream_loadd(7, right + (2 * tile + 1) * tile_bytes, 64);
            } else {
                _tile_loadd(6, right + 2 * tile * tile_bytes, 64);
                if (halves == 2) _tile_loadd(7, right + (2 * tile + 1) * tile_bytes, 64);
            }
            if (streamed == Streamed::left) {
                _tile_stream_loadd(5, from + left.half_bytes, left.row_bytes);
            } else {
                _tile_loadd(5, from + left.half_bytes, left.row_bytes);
            }
            add_products<halves>();
            between(tile);
        }
        store_sums<halves>(sums);
    }
};

struct DotProducts {
    static constexpr std::int64_t second_level_cache = 1 << 20;

    static void begin() {}
    static void end() {}

    template <int halves, Streamed streamed, class Left, class Between>
    INSTSEL_AMX_BF16 INSTSEL_INLINE static void multiply(const Left& left, const std::uint8_t* right,
                                                         std::int64_t tiles, bool add, float* sums,
                                                         const Between& between) {
        for (std::int64_t row = 0; row < 32; row += rows_in_registers) {
            multiply_rows<halves>(left, row / 16 * left.half_bytes + row % 16 * left.row_bytes, right, tiles, add,
                                  sums + row / 16 * 512 + row % 16 * 16);
        }
        for (std::int64_t tile = 0; tile < tiles; ++tile) between(tile);
    }

private:
    // Rows whose sums are in registers: enough to hide an addition's latency behind the others.
    static constexpr int rows_in_registers = 8;

    template <int halves, class Left>
    INSTSEL_AMX_BF16 INSTSEL_INLINE static void multiply_rows(const Left& left, std::int64_t offset,
                                                              const std::uint8_t* right, std::int64_t tiles, bool add,
                                                              float* sums) {
        __m512 kept[rows_in_registers][halves];
        for (int row = 0; row < rows_in_registers; ++row) {
            for (int half = 0; half < halves; ++half) {
                kept[row][half] = add ? _mm512_load_ps(sums + 16 * row + 256 * half) : _mm512_setzero_ps();
            }
        }
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
            const std::uint8_t* from = left(tile) + offset;
            const std::uint8_t* columns = right + 2 * tile * tile_bytes;
            for (int pair = 0; pair < 16; ++pair) {
                __m512bh factors[halves];
                for (int half = 0; half < halves; ++half) {
                    factors[half] = (__m512bh)_mm512_load_si512(columns + half * tile_bytes + 64 * pair);
                }
                for (int row = 0; row < rows_in_registers; ++row) {
                    std::int32_t both;
                    std::memcpy(&both, from + left.row_bytes * row + 4 * pair, 4);
                    const __m512bh numbers = (__m512bh)_mm512_set1_epi32(both);
                    for (int half = 0; half < halves; ++half) {
                        kept[row][half] = _mm512_dpbf16_ps(kept[row][half], numbers, factors[half]);
                    }
                }
            }
        }
        for (int row = 0; row < rows_in_registers; ++row) {
            for (int half = 0; half < halves; ++half) _mm512_store_ps(sums + 16 * row + 256 * half, kept[row][half]);
        }
    }
};

}  // namespace instsel
#endif
