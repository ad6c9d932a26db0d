// Packing of bfloat16 matrices into AMX tiles of 1 KB, and the tile configuration that the kernels share.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "instruction_sets.h"

namespace instsel {

constexpr std::int64_t tile_bytes = 1024;  // 16 rows of 64 bytes
constexpr std::int64_t tile_depth = 32;    // bfloat16 numbers along the summed dimension

inline std::int64_t depth_tiles(std::int64_t depth) { return (depth + tile_depth - 1) / tile_depth; }

// All eight tile registers hold 16 rows of 64 bytes. In memory once and for all: GCC 12 takes the stores into a local
// configuration for dead, as its _tile_loadconfig names only the first eight bytes.
struct alignas(64) TileConfiguration {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline const TileConfiguration tile_configuration;

INSTSEL_AMX inline void configure_tiles() { _tile_loadconfig(&tile_configuration); }
INSTSEL_AMX inline void release_tiles() { _tile_release(); }

// Left operand: 16 rows, 32 numbers of each, as they are. Missing rows and numbers are zero.
inline void pack_left(const std::uint16_t* source, std::int64_t row_stride, std::int64_t rows, std::int64_t depth,
                      std::int64_t tile_stride, std::uint8_t* target) {
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

// Right operand: 16 columns given as rows of the source; the tile holds pairs of numbers of one column side by side.
inline void pack_right(const std::uint16_t* source, std::int64_t row_stride, std::int64_t columns, std::int64_t depth,
                       std::int64_t tile_stride, std::uint8_t* target) {
    for (std::int64_t tile = 0; tile < depth_tiles(depth); ++tile) {
        std::uint32_t* out = reinterpret_cast<std::uint32_t*>(target + tile * tile_stride);
        const std::int64_t left = std::min(tile_depth, depth - tile * tile_depth);
        if (columns < 16 || left < tile_depth) std::memset(out, 0, tile_bytes);
        for (std::int64_t column = 0; column < columns; ++column) {
            const std::uint16_t* from = source + column * row_stride + tile * tile_depth;
            for (std::int64_t pair = 0; pair < left / 2; ++pair) {
                std::memcpy(out + pair * 16 + column, from + 2 * pair, 4);
            }
            if (left % 2 != 0) std::memcpy(out + (left / 2) * 16 + column, from + left - 1, 2);
        }
    }
}

}  // namespace instsel
#endif
