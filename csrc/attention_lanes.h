// Rows of attention side by side as the lanes of vectors, [head][32 rows], and back.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention_rows.h"
#include "vectors.h"

namespace instsel {

// Queries side by side as lanes, of `lanes` rows; where there are fewer, the last again.
INSTSEL_INLINE void load_queries(const HeadsView<const float>& query, const RowRange& rows, int lanes,
                                 std::int64_t head_size, float* lanes_of_query) {
    const float* from[2][16];
    const int count = find_rows(query, rows, 0, from[0]) + find_rows(query, rows, 1, from[1]);
    for (int lane = count; lane < lanes; ++lane) from[lane / 16][lane % 16] = from[(count - 1) / 16][(count - 1) % 16];
    for (int lane = 0; lane < lanes; lane += 4) {
        const float* const* four = from[lane / 16] + lane % 16;
        float* to = lanes_of_query + lane;
        std::int64_t d = 0;
        for (; d + 4 <= head_size; d += 4) {
            const float* const numbers[4] = {four[0] + d, four[1] + d, four[2] + d, four[3] + d};
            float* const columns[4] = {to + rows_at_once * d, to + rows_at_once * (d + 1), to + rows_at_once * (d + 2),
                                       to + rows_at_once * (d + 3)};
            transpose4(numbers, columns);
        }
        for (; d < head_size; ++d) {
            for (int i = 0; i < 4; ++i) to[rows_at_once * d + i] = four[i][d];
        }
    }
}

// The lanes of the sums as rows of the result.
INSTSEL_INLINE void store_rows(const HeadsView<float>& out, const RowRange& rows, std::int64_t head_size,
                               const float* lanes_of_out) {
    float* to[2][16];
    const int count = find_rows(out, rows, 0, to[0]) + find_rows(out, rows, 1, to[1]);
    for (int lane = 0; lane < count; lane += 4) {
        float* const* four = to[lane / 16] + lane % 16;
        const float* from = lanes_of_out + lane;
        std::int64_t d = 0;
        for (; lane + 4 <= count && d + 4 <= head_size; d += 4) {
            const float* const columns[4] = {from + rows_at_once * d, from + rows_at_once * (d + 1),
                                             from + rows_at_once * (d + 2), from + rows_at_once * (d + 3)};
            float* const numbers[4] = {four[0] + d, four[1] + d, four[2] + d, four[3] + d};
            transpose4(columns, numbers);
        }
        for (; d < head_size; ++d) {
            for (int i = 0; i < std::min(4, count - lane); ++i) four[i][d] = from[rows_at_once * d + i];
        }
    }
}

}  // namespace instsel
