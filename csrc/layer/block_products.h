// The products of a block of 32 rows with 32 rows of packed weights, with the stores of the block before beside them.
#pragma once

#if defined(__x86_64__)
#include <cstdint>

#include "layer/block_stores.h"
#include "simd/bfloat16_products.h"

namespace instsel {

// Tiles of the depth that are multiplied at once, so that 32 rows of them stay in the first-level cache.
constexpr std::int64_t largest_depth = 20;

inline std::int64_t depth_passes(std::int64_t tiles) { return (tiles + largest_depth - 1) / largest_depth; }

// The 32 rows of x that are multiplied next, fetched while the ones before meet the weights.
struct NextRows {
    const std::uint8_t* row;
    std::int64_t row_bytes;
    std::int64_t rows;    // left; 0 where there are none, or they are in the cache already
    std::int64_t lines;   // of a row
    std::int64_t a_call;  // lines fetched by each of the 32 calls that come with a block
    std::int64_t line;

    INSTSEL_INLINE void fetch() {
        for (std::int64_t i = 0; i < a_call && rows > 0; ++i) {
            fetch_line(row + 64 * line);
            if (++line < lines) continue;
            line = 0;
            row += row_bytes;
            --rows;
        }
    }
};

// What is done beside the products of a block, spread over its tiles: the block before is stored, and the memory fetched
// that will be needed soon.
template <class Store>
struct OverlappedStore {
    const Store& store;
    const Block& before;
    const Block& now;
    NextRows& next;
    std::int64_t tiles;
    int& row;
    std::int64_t& due;

    INSTSEL_AMX_BF16 INSTSEL_INLINE void operator()(std::int64_t) const {
        for (due += block_rows; due >= tiles; due -= tiles, ++row) {
            if (row < before.rows) store(before, row);
            if (row < now.rows) store.fetch(now, row);
            next.fetch();
        }
    }
};

// 32 rows of x times a packed block of weights over some of the depth, added to the block's sums unless they are new,
// while the block before is stored: tile products and vector arithmetic run side by side. The weights pass through the
// first-level cache with a hint not to stay there, where they would displace the rows.
template <class Products, class Left, class Store>
INSTSEL_AMX_BF16 void multiply_block(const Left& x, const std::uint8_t* weights, std::int64_t tiles, bool new_sums,
                                     const Block& block, const Block& before, const Store& store, NextRows& next) {
    int row = 0;
    std::int64_t due = 0;
    Products::template multiply<2, Streamed::right>(x, weights, tiles, !new_sums, block.sums,
        OverlappedStore<Store>{store, before, block, next, tiles, row, due});
}

}  // namespace instsel
#endif
