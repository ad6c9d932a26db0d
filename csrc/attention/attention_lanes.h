// Rows of attention side by side as the lanes of vectors, [head][32 rows], and back.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/attention_rows.h"
#include "simd/vectors.h"

namespace instsel {

// Rows into lanes, or lanes into rows: up to four rows [head] and their lanes [head][32 rows].
template <bool into_lanes, class Row, class Lane>
INSTSEL_INLINE void move_rows(Row* const* rows, Lane* lanes, int count, std::int64_t head_size) {
    std::int64_t d = 0;
    for (; count >= 4 && d + 4 <= head_size; d += 4) {
        Row* const numbers[4] = {rows[0] + d, rows[1] + d, rows[2] + d, rows[3] + d};
        Lane* const columns[4] = {lanes + rows_at_once * d, lanes + rows_at_once * (d + 1),
                                  lanes + rows_at_once * (d + 2), lanes + rows_at_once * (d + 3)};
        if constexpr (into_lanes) {
            transpose4(numbers, columns);
        } else {
            transpose4(columns, numbers);
        }
    }
    for (; d < head_size; ++d) {
        for (int i = 0; i < std::min(4, count); ++i) {
            if constexpr (into_lanes) {
                lanes[rows_at_once * d + i] = rows[i][d];
            } else {
                rows[i][d] = lanes[rows_at_once * d + i];
            }
        }
    }
}

// Queries side by side as lanes, of `lanes` rows; where there are fewer, the last again.
INSTSEL_INLINE void load_queries(const HeadsView<const float>& query, const RowRange& rows, int lanes,
                                 std::int64_t head_size, float* lanes_of_query) {
    const float* from[2][16];
    const int count = find_rows(query, rows, 0, from[0]) + find_rows(query, rows, 1, from[1]);
    for (int lane = count; lane < lanes; ++lane) from[lane / 16][lane % 16] = from[(count - 1) / 16][(count - 1) % 16];
    for (int lane = 0; lane < lanes; lane += 4) {
        move_rows<true>(from[lane / 16] + lane % 16, lanes_of_query + lane, 4, head_size);
    }
}

// The lanes of the sums as rows of the result.
INSTSEL_INLINE void store_rows(const HeadsView<float>& out, const RowRange& rows, std::int64_t head_size,
                               const float* lanes_of_out) {
    float* to[2][16];
    const int count = find_rows(out, rows, 0, to[0]) + find_rows(out, rows, 1, to[1]);
    for (int lane = 0; lane < count; lane += 4) {
        move_rows<false>(to[lane / 16] + lane % 16, lanes_of_out + lane, count - lane, head_size);
    }
}

}  // namespace instsel
