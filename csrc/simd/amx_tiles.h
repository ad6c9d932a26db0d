// The AMX tile registers: their configuration, and sums of four tiles at once.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

#include "simd/instruction_sets.h"

namespace instsel {

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

// A block of sums is four tiles in registers 0 to 3, of two left operands (registers 4 and 5) and two right ones (6 and
// 7): [left][right][16][16] floats in memory. With `rights` 1 the second right operand is left out.
template <int rights = 2>
INSTSEL_AMX INSTSEL_INLINE void zero_sums() {
    _tile_zero(0);
    _tile_zero(2);
    if (rights == 2) _tile_zero(1);
    if (rights == 2) _tile_zero(3);
}

template <int rights = 2>
INSTSEL_AMX INSTSEL_INLINE void load_sums(const float* sums) {
    _tile_loadd(0, sums, 64);
    _tile_loadd(2, sums + 512, 64);
    if (rights == 2) _tile_loadd(1, sums + 256, 64);
    if (rights == 2) _tile_loadd(3, sums + 768, 64);
}

template <int rights = 2>
INSTSEL_AMX INSTSEL_INLINE void store_sums(float* sums) {
    _tile_stored(0, sums, 64);
    _tile_stored(2, sums + 512, 64);
    if (rights == 2) _tile_stored(1, sums + 256, 64);
    if (rights == 2) _tile_stored(3, sums + 768, 64);
}

template <int rights = 2>
INSTSEL_AMX INSTSEL_INLINE void add_products() {
    _tile_dpbf16ps(0, 4, 6);
    if (rights == 2) _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    if (rights == 2) _tile_dpbf16ps(3, 5, 7);
}

}  // namespace instsel
#endif
