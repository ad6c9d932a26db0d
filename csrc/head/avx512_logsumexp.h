// The running log-sum-exp of 16 rows at once, one row a vector lane: logits arrive as [vocabulary, 16 rows] tiles.
#pragma once

#if defined(__x86_64__)
#include <cstdint>
#include <limits>

#include "head/vocabulary_segments.h"
#include "simd/avx512_math.h"

namespace instsel {

// Vocabulary entries in a block of logits of a group of rows, two vectors of 16.
constexpr int block_entries = 32;

using VectorStates = LaneStates<16, float, std::int32_t>;

// A block of logits as the tile products leave it: tiles (entries 0-15, rows 0-15), (0-15, 16-31), (16-31, 0-15), ...
struct LogitsBlock {
    float* z;
    VectorStates* states;  // of its two vectors of rows
    std::int32_t first_entry;
    int entries;  // 0: nothing to do
};

INSTSEL_INLINE float* block_vector(float* z, int entry, int half) {
    return z + ((entry / 16) * 2 + half) * 256 + (entry % 16) * 16;
}

// What is kept in registers while a block is walked entry by entry.
struct BlockWalk {
    __m512 offset[2];
    __m512 max[2];
    __m512 sum[2];
};

INSTSEL_AVX512 INSTSEL_INLINE void start_walk(const LogitsBlock& block, BlockWalk& walk) {
    for (int half = 0; half < 2; ++half) {
        walk.offset[half] = _mm512_load_ps(block.states[half].offset);
        walk.max[half] = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
        walk.sum[half] = _mm512_setzero_ps();
    }
}

// One vocabulary entry of 32 rows: transforms the logits in place if the head asks for it, and adds them up.
template <bool transform>
INSTSEL_AVX512 INSTSEL_INLINE void walk_entry(const LogitsBlock& block, int entry, const HeadTransform& head,
                                              BlockWalk& walk) {
    for (int half = 0; half < 2; ++half) {
        float* vector = block_vector(block.z, entry, half);
        __m512 z = _mm512_load_ps(vector);
        if (transform) {
            const float bias = head.bias == nullptr ? 0.0f : head.bias[block.first_entry + entry];
            z = _mm512_mul_ps(_mm512_add_ps(z, _mm512_set1_ps(bias)), _mm512_set1_ps(head.scale));
            if (head.softcap != 0.0f) {
                const __m512 cap = _mm512_set1_ps(head.softcap);
                z = _mm512_mul_ps(cap, tanh16(_mm512_div_ps(z, cap)));
            }
            _mm512_store_ps(vector, z);
        }
        walk.max[half] = _mm512_max_ps(z, walk.max[half]);
        walk.sum[half] = _mm512_add_ps(walk.sum[half], exp16(_mm512_sub_ps(z, walk.offset[half])));
    }
}

INSTSEL_AVX512 inline __attribute__((noinline)) void raise_offset(const LogitsBlock& block, int half, __mmask16 lanes,
                                                                 const BlockWalk& walk) {
    VectorStates& states = block.states[half];
    const __m512 old_offset = _mm512_load_ps(states.offset);
    const __m512 offset = _mm512_mask_blend_ps(lanes, old_offset, walk.max[half]);
    __m512 sum = _mm512_setzero_ps();
    for (int entry = 0; entry < block.entries; ++entry) {
        sum = _mm512_add_ps(sum, exp16(_mm512_sub_ps(_mm512_load_ps(block_vector(block.z, entry, half)), offset)));
    }
    // Lanes outside the mask keep what they have: a row must not change because of its neighbours.
    const __m512 scaled = _mm512_mul_ps(_mm512_load_ps(states.sum), exp16(_mm512_sub_ps(old_offset, offset)));
    _mm512_mask_store_ps(states.sum, lanes, _mm512_add_ps(scaled, sum));
    _mm512_mask_store_ps(states.offset, lanes, offset);
}

INSTSEL_AVX512 inline __attribute__((noinline)) void find_argmax(const LogitsBlock& block, int half, __mmask16 lanes,
                                                                const BlockWalk& walk) {
    __mmask16 missing = lanes;
    for (int entry = 0; entry < block.entries && missing != 0; ++entry) {
        const __m512 z = _mm512_load_ps(block_vector(block.z, entry, half));
        const __mmask16 found = _mm512_mask_cmp_ps_mask(missing, z, walk.max[half], _CMP_EQ_OQ);
        _mm512_mask_store_epi32(block.states[half].argmax, found, _mm512_set1_epi32(block.first_entry + entry));
        missing &= ~found;
    }
}

template <bool argmax>
INSTSEL_AVX512 INSTSEL_INLINE void finish_walk(const LogitsBlock& block, const BlockWalk& walk) {
    for (int half = 0; half < 2; ++half) {
        VectorStates& states = block.states[half];
        const __m512 limit = _mm512_add_ps(walk.offset[half], _mm512_set1_ps(largest_lag));
        const __mmask16 over = _mm512_cmp_ps_mask(walk.max[half], limit, _CMP_GT_OQ);
        const __m512 sum = _mm512_add_ps(_mm512_load_ps(states.sum), walk.sum[half]);
        _mm512_mask_store_ps(states.sum, _knot_mask16(over), sum);
        if (over != 0) raise_offset(block, half, over, walk);
        const __mmask16 larger = _mm512_cmp_ps_mask(walk.max[half], _mm512_load_ps(states.max), _CMP_GT_OQ);
        if (larger != 0) {
            _mm512_mask_store_ps(states.max, larger, walk.max[half]);
            if (argmax) find_argmax(block, half, larger, walk);
        }
    }
}

}  // namespace instsel
#endif
