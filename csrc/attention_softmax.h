// The softmax of a chunk of attention scores, 16 queries a vector: what lies between the two products.
#pragma once

#if defined(__x86_64__)
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "amx_tiles.h"
#include "avx512_math.h"
#include "tree_layout.h"

namespace instsel {

constexpr int rows_at_once = 32;        // queries of a row block: two vectors
constexpr std::int64_t chunk_blocks = 8;  // blocks of keys whose scores are held at once: 32 KB

// Which of 32 rows see a key at a path position: a contiguous run, as rows are in order of position.
struct Sight {
    std::int64_t first_position;  // of row 0
    std::int64_t first_head;      // of row 0 within its group: rows need not start at a position's first head
    std::int64_t group;           // rows per position
    std::int64_t window;          // 0: none

    std::int64_t row_at(std::int64_t position) const {
        return std::clamp<std::int64_t>((position - first_position) * group - first_head, 0, rows_at_once);
    }
    std::uint32_t rows(std::int64_t key_position) const {
        const std::int64_t from = row_at(key_position);
        const std::int64_t to = window == 0 ? rows_at_once : row_at(key_position + window);
        return to <= from ? 0u : std::uint32_t(((std::uint64_t(1) << to) - 1) & ~((std::uint64_t(1) << from) - 1));
    }
    // Whether all rows up to the last position see all keys of a block.
    bool whole(const PathBlock& block, std::int64_t last_position) const {
        return block.keys == key_block && block.position + key_block - 1 <= first_position &&
               (window == 0 || last_position - block.position < window);
    }
};

struct SoftmaxRows {
    __m512 max[2];  // of the scaled scores, in units of log2
    __m512 sum[2];
};

// Coefficients for `exp2_16` to 3e-6 relative, far finer than the bfloat16 that it is rounded to.
constexpr float coarse_exp2_coefficients[] = {0.00958285f, 0.05590643f, 0.24024099f, 0.69312419f, 1.0f};

INSTSEL_AVX512 INSTSEL_INLINE SoftmaxRows empty_softmax() {
    SoftmaxRows rows;
    for (int half = 0; half < 2; ++half) {
        rows.max[half] = _mm512_set1_ps(std::numeric_limits<float>::lowest());
        rows.sum[half] = _mm512_setzero_ps();
    }
    return rows;
}

// Raises the running maxima of 16 rows to a chunk's largest scores: which were raised, and in `fall` by how much what
// was added before falls, in units of log2.
INSTSEL_AVX512 INSTSEL_INLINE __mmask16 raise_maxima(__m512& maxima, __m512 largest, __m512 factor, __m512& fall) {
    // A finite floor: a row that sees nothing in this chunk would meet -inf - -inf.
    const __m512 bounded =
        _mm512_max_ps(_mm512_mul_ps(largest, factor), _mm512_set1_ps(std::numeric_limits<float>::lowest()));
    const __m512 before = maxima;
    maxima = _mm512_max_ps(before, bounded);
    fall = _mm512_sub_ps(before, maxima);
    return _mm512_cmp_ps_mask(maxima, before, _CMP_GT_OQ);
}

// A row block as both kernels begin it; the blocks of keys that it sees go into `blocks`.
struct BlockStart {
    RowRange rows;
    std::int64_t last_position;
    Sight sight;
};

inline BlockStart start_block(const TreeLayout& layout, const AttentionShape& shape, const RowBlock& work,
                              std::int64_t group, std::vector<PathBlock>& blocks) {
    const std::int64_t token = layout.query_offsets[work.node];
    const std::int64_t node_rows = (layout.query_offsets[work.node + 1] - token) * group;
    const RowRange rows{token, work.key_head * group, group, work.first_row,
                        std::min<std::int64_t>(rows_at_once, node_rows - work.first_row)};
    const std::int64_t context = context_length(layout, work.node);
    const std::int64_t first_position = context + rows.first / group;
    const std::int64_t last_position = context + (rows.first + rows.count - 1) / group;
    path_blocks(layout, work.node, first_position, last_position, shape.window, blocks);
    // Rows need not start at a token's first head: the run of lanes is counted from that head's place.
    return {rows, last_position, {first_position, rows.first % group, group, shape.window}};
}

INSTSEL_INLINE float* score_vector(float* scores, std::int64_t block, int key, int half) {
    return scores + block * 1024 + ((key / 16) * 2 + half) * 256 + (key % 16) * 16;
}

// Soft-caps the scores of a block in place; afterwards they are scaled already.
INSTSEL_AVX512 inline void softcap_block(float* scores, float scaling, float softcap) {
    const __m512 factor = _mm512_set1_ps(scaling / softcap);
    for (int i = 0; i < 1024; i += 16) {
        const __m512 z = tanh16(_mm512_mul_ps(_mm512_load_ps(scores + i), factor));
        _mm512_store_ps(scores + i, _mm512_mul_ps(z, _mm512_set1_ps(softcap)));
    }
}

// `halves` is 1 where only the first 16 rows are wanted.
template <int halves>
INSTSEL_AVX512 INSTSEL_INLINE void block_maxima(float* scores, std::int64_t index, const PathBlock& block, bool whole,
                                                const Sight& sight, __m512* largest) {
    for (int key = 0; key < block.keys; ++key) {
        const std::uint32_t seen = whole ? ~0u : sight.rows(block.position + key);
        for (int half = 0; half < halves; ++half) {
            const __m512 z = _mm512_load_ps(score_vector(scores, index, key, half));
            largest[half] = _mm512_mask_max_ps(largest[half], __mmask16(seen >> (16 * half)), z, largest[half]);
        }
    }
}

// Turns a block of scores into probabilities relative to `rows.max`, two keys side by side as a right operand wants it.
template <bool whole, int halves>
INSTSEL_AMX_BF16 INSTSEL_INLINE void block_probabilities(float* scores, std::int64_t index, const PathBlock& block,
                                                         const Sight& sight, __m512 factor, SoftmaxRows& rows,
                                                         std::uint8_t* tiles) {
    alignas(64) static constexpr std::uint16_t interleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,
                                                                 21, 6, 22, 7, 23, 8,  24, 9,  25, 10, 26,
                                                                 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i order = _mm512_load_si512(interleave);
    for (int key = 0; key < key_block; key += 2) {
        std::uint32_t seen[2] = {~0u, ~0u};
        if (!whole) {
            for (int k = 0; k < 2; ++k) seen[k] = key + k < block.keys ? sight.rows(block.position + key + k) : 0u;
        }
        for (int half = 0; half < halves; ++half) {
            __m512 p[2];
            for (int k = 0; k < 2; ++k) {
                const __m512 z = _mm512_load_ps(score_vector(scores, index, key + k, half));
                p[k] = exp2_16(_mm512_fmsub_ps(z, factor, rows.max[half]), coarse_exp2_coefficients);
                if (!whole) p[k] = _mm512_maskz_mov_ps(__mmask16(seen[k] >> (16 * half)), p[k]);
            }
            rows.sum[half] = _mm512_add_ps(rows.sum[half], _mm512_add_ps(p[0], p[1]));
            const __m512i pair = (__m512i)_mm512_cvtne2ps_pbh(p[1], p[0]);
            _mm512_store_si512(tiles + half * tile_bytes + key / 2 * 64, _mm512_permutexvar_epi16(order, pair));
        }
    }
}

}  // namespace instsel
#endif
