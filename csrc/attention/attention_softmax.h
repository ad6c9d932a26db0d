// The softmax of a chunk of scores for attention in bfloat16, 16 queries a vector: what lies between the two products.
#pragma once

#if defined(__x86_64__)
#include <cstdint>
#include <limits>

#include "attention/attention_rows.h"
#include "simd/avx512_math.h"
#include "simd/tile_packing.h"

namespace instsel {

struct SoftmaxRows {
    __m512 max[2];  // of the scaled scores, in units of log2
    __m512 sum[2];
};

// 2^t, to 3e-6 relative, far finer than the bfloat16 that it is rounded to: 2^f with f in [0, 1)
// by a polynomial, times the power of two below it.
INSTSEL_AVX512 INSTSEL_INLINE __m512 coarse_exp2_16(__m512 t) {
    const __m512 f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.01342642f), f, _mm512_set1_ps(0.05224290f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24128001f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69304487f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, t);
}

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

INSTSEL_INLINE const float* score_vector(const float* scores, std::int64_t block, int key, int half) {
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

// The largest scores of a block that all rows see; of several running maxima none has to wait for the one before.
INSTSEL_AVX512 INSTSEL_INLINE __m512 whole_block_maxima(const float* scores, std::int64_t index, int half,
                                                        __m512 largest) {
    constexpr int chains = 4;
    __m512 z[chains];
    for (int i = 0; i < chains; ++i) z[i] = _mm512_load_ps(score_vector(scores, index, i, half));
    for (int key = chains; key < int(key_block); key += chains) {
        for (int i = 0; i < chains; ++i) {
            z[i] = _mm512_max_ps(z[i], _mm512_load_ps(score_vector(scores, index, key + i, half)));
        }
    }
    return _mm512_max_ps(_mm512_max_ps(_mm512_max_ps(z[0], z[1]), _mm512_max_ps(z[2], z[3])), largest);
}

// `halves` is 1 where only the first 16 rows are wanted, `whole` says that all of them see all keys of the block.
template <bool whole, int halves>
INSTSEL_AVX512 INSTSEL_INLINE void block_maxima(const float* scores, std::int64_t index, const PathBlock& block,
                                                const RowMask& mask, __m512* largest) {
    if (whole) {
        for (int half = 0; half < halves; ++half) {
            largest[half] = whole_block_maxima(scores, index, half, largest[half]);
        }
        return;
    }
    for (int key = 0; key < int(block.keys); ++key) {
        const std::uint32_t seen = mask.rows(block, key);
        for (int half = 0; half < halves; ++half) {
            const __m512 z = _mm512_load_ps(score_vector(scores, index, key, half));
            largest[half] = _mm512_mask_max_ps(largest[half], __mmask16(seen >> (16 * half)), z, largest[half]);
        }
    }
}

// Turns a block of scores into probabilities relative to `rows.max`, two keys side by side as a right operand wants it.
template <bool whole, int halves>
INSTSEL_AMX_BF16 INSTSEL_INLINE void block_probabilities(const float* scores, std::int64_t index, const PathBlock& block,
                                                         const RowMask& mask, __m512 factor, SoftmaxRows& rows,
                                                         std::uint8_t* tiles) {
    alignas(64) static constexpr std::uint16_t interleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,
                                                                 21, 6, 22, 7, 23, 8,  24, 9,  25, 10, 26,
                                                                 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i order = _mm512_load_si512(interleave);
    // Copies, which stay in registers: for all the compiler knows a store to the tiles could change those in memory.
    SoftmaxRows own = rows;
    for (int key = 0; key < key_block; key += 2) {
        std::uint32_t seen[2] = {~0u, ~0u};
        if (!whole) {
            for (int k = 0; k < 2; ++k) seen[k] = key + k < block.keys ? mask.rows(block, key + k) : 0u;
        }
        for (int half = 0; half < halves; ++half) {
            __m512 p[2];
            for (int k = 0; k < 2; ++k) {
                const __m512 z = _mm512_load_ps(score_vector(scores, index, key + k, half));
                p[k] = coarse_exp2_16(_mm512_fmsub_ps(z, factor, own.max[half]));
                if (!whole) p[k] = _mm512_maskz_mov_ps(__mmask16(seen[k] >> (16 * half)), p[k]);
            }
            own.sum[half] = _mm512_add_ps(own.sum[half], _mm512_add_ps(p[0], p[1]));
            const __m512i pair = (__m512i)_mm512_cvtne2ps_pbh(p[1], p[0]);
            _mm512_store_si512(tiles + half * tile_bytes + key / 2 * 64, _mm512_permutexvar_epi16(order, pair));
        }
    }
    for (int half = 0; half < halves; ++half) rows.sum[half] = own.sum[half];
}

// The sinks' shares of the softmax, which add no value; one that leaves nothing to the scores is infinite.
INSTSEL_AVX512 inline void add_sinks(const float* sinks, const RowRange& range, SoftmaxRows& rows) {
    alignas(64) float of_rows[rows_at_once];
    find_sinks(sinks, range, of_rows);
    for (int half = 0; half < 2; ++half) {
        const __m512 lead = _mm512_sub_ps(_mm512_load_ps(of_rows + 16 * half), rows.max[half]);
        rows.sum[half] = _mm512_add_ps(rows.sum[half], coarse_exp2_16(lead));
    }
}

}  // namespace instsel
#endif
