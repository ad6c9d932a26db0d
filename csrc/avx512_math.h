// exp and tanh of 16 floats, as in exponential.h, for the kernels that hold their numbers in vector registers.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include "instruction_sets.h"

namespace instsel {

// Coefficients of 2^f for |f| <= 1/2, highest power first, to 2e-7 relative (see exponential.h).
constexpr float exp2_coefficients[] = {0.001326472725f, 0.009671512786f, 0.05550733744f,
                                       0.2402224208f,   0.6931469776f,   1.0f};

// What to add to a float so that its low bits hold it rounded, with an exponent's bias of 127.
constexpr float exp2_magic = 12582912.0f + 127.0f;

// 2^f times the power of two whose biased exponent is in the low bits of `shifted`.
INSTSEL_AVX512 INSTSEL_INLINE __m512 exp2_of_parts(__m512 f, __m512 shifted) {
    __m512 p = _mm512_set1_ps(exp2_coefficients[0]);
    for (int i = 1; i < 6; ++i) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(exp2_coefficients[i]));
    return _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
}

// exp(x) for x <= 88; NaN gives NaN (max returns its second operand if one is NaN).
INSTSEL_AVX512 INSTSEL_INLINE __m512 exp16(__m512 x) {
    const __m512 log2_e = _mm512_set1_ps(1.44269504f);
    const __m512 magic = _mm512_set1_ps(exp2_magic);
    const __m512 bounded = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);
    const __m512 shifted = _mm512_fmadd_ps(bounded, log2_e, magic);
    const __m512 f = _mm512_fmsub_ps(bounded, log2_e, _mm512_sub_ps(shifted, magic));
    return exp2_of_parts(f, shifted);
}

INSTSEL_AVX512 INSTSEL_INLINE __m512 tanh16(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 a = _mm512_abs_ps(x);
    const __m512 e = exp16(_mm512_mul_ps(a, _mm512_set1_ps(-2.0f)));
    const __m512 far = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
    const __m512 s = _mm512_mul_ps(a, a);
    __m512 q = _mm512_set1_ps(-0.005704985412f);
    q = _mm512_fmadd_ps(q, s, _mm512_set1_ps(0.02063908586f));
    q = _mm512_fmadd_ps(q, s, _mm512_set1_ps(-0.05373971467f));
    q = _mm512_fmadd_ps(q, s, _mm512_set1_ps(0.1333144219f));
    q = _mm512_fmadd_ps(q, s, _mm512_set1_ps(-0.3333328194f));
    const __m512 near = _mm512_fmadd_ps(_mm512_mul_ps(a, s), q, a);
    const __mmask16 small = _mm512_cmp_ps_mask(a, _mm512_set1_ps(0.625f), _CMP_LT_OQ);
    const __m512 magnitude = _mm512_mask_blend_ps(small, far, near);
    const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f));
    return _mm512_or_ps(magnitude, sign);
}

INSTSEL_AVX512 INSTSEL_INLINE __m512 silu16(__m512 x) {
    const __m512 negated = _mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), x), _mm512_set1_ps(80.0f));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp16(negated)));
}

INSTSEL_AVX512 INSTSEL_INLINE __m512 gelu_tanh16(__m512 x) {
    const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const __m512 inner = _mm512_mul_ps(_mm512_set1_ps(0.7978845608f),
                                       _mm512_fmadd_ps(_mm512_set1_ps(0.044715f), cube, x));
    const __m512 half = _mm512_mul_ps(_mm512_set1_ps(0.5f), x);
    return _mm512_fmadd_ps(half, tanh16(inner), half);
}

}  // namespace instsel
#endif
