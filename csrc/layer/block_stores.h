// What becomes of a block's sums: a part of a product, or of a gate times another product, rounded to bfloat16.
#pragma once

#if defined(__x86_64__)
#include <cstdint>

#include "layer/bfloat16_linear.h"
#include "simd/avx512_math.h"

namespace instsel {

// A block is 32 rows of x times 32 rows of weights: four tiles of sums.
constexpr std::int64_t block_rows = 32;
constexpr std::int64_t block_sums = 1024;

// Sums of a block, [rows 0-15, 16-31][halves of its columns][16][16], and where they go.
struct Block {
    float* sums;
    std::int64_t row;
    std::int64_t index;  // of two halves of 16 weight rows
    int rows;            // 0: nothing to do
};

// Has a line of memory come into the second-level cache while it is not yet needed.
INSTSEL_INLINE void fetch_line(const void* line) { _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T1); }

struct StoreLinear {
    bfloat16* out;
    const bfloat16* bias;
    std::int64_t columns;
    bool add;  // to what `out` holds

    INSTSEL_INLINE void fetch(const Block& block, int row) const {
        fetch_line(out + (block.row + row) * columns + 32 * block.index);
    }

    INSTSEL_AMX_BF16 INSTSEL_INLINE void operator()(const Block& block, int row) const {
        const float* sums = block.sums + row / 16 * 512 + row % 16 * 16;
        const std::int64_t column = 32 * block.index, left = columns - column;
        const __mmask32 mask = left >= 32 ? ~__mmask32(0) : (__mmask32(1) << left) - 1;
        __m512 low = _mm512_load_ps(sums), high = _mm512_load_ps(sums + 256);
        if (bias != nullptr) add_numbers(_mm512_maskz_loadu_epi16(mask, bias + column), low, high);
        bfloat16* to = out + (block.row + row) * columns + column;
        if (add) add_numbers(_mm512_maskz_loadu_epi16(mask, to), low, high);
        _mm512_mask_storeu_epi16(to, mask, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }

    INSTSEL_AMX_BF16 INSTSEL_INLINE static void add_numbers(__m512i bits, __m512& low, __m512& high) {
        low = _mm512_add_ps(low, widen(_mm512_castsi512_si256(bits)));
        high = _mm512_add_ps(high, widen(_mm512_extracti64x4_epi64(bits, 1)));
    }

    INSTSEL_AMX_BF16 INSTSEL_INLINE static __m512 widen(__m256i bits) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
};

template <Activation activation>
struct StoreGated {
    bfloat16* out;
    std::int64_t columns;

    INSTSEL_INLINE void fetch(const Block& block, int row) const {
        if (block.index % 2 == 0) fetch_line(out + (block.row + row) * columns + 16 * block.index);  // of two blocks
    }

    INSTSEL_AMX_BF16 INSTSEL_INLINE void operator()(const Block& block, int row) const {
        const float* sums = block.sums + row / 16 * 512 + row % 16 * 16;
        const std::int64_t column = 16 * block.index, left = columns - column;
        const __mmask16 mask = left >= 16 ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
        const __m512 gate = activation == Activation::silu ? silu16(_mm512_load_ps(sums))
                                                           : gelu_tanh16(_mm512_load_ps(sums));
        const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(gate, _mm512_load_ps(sums + 256)));
        _mm256_mask_storeu_epi16(out + (block.row + row) * columns + column, mask, rounded);
    }
};

}  // namespace instsel
#endif
