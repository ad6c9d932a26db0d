// exp and tanh of 16 floats, as in exponential.h, for the kernels that hold their numbers in vector registers.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include "simd/vectors.h"

namespace instsel {

// exp(x) for x <= 88; NaN gives NaN (max returns its second operand if one is NaN).
INSTSEL_AVX512 INSTSEL_INLINE __m512 exp16(__m512 x) {
    __m512 power;
    power_of_two<Vector<16>::Floats>(_mm512_max_ps(_mm512_set1_ps(-87.0f), x), log2_e, power);
    return power;
}

INSTSEL_AVX512 INSTSEL_INLINE __m512 tanh16(__m512 x) {
    const __m512 a = _mm512_abs_ps(x);
    __m512 tanh;
    tanh_of<Vector<16>::Floats>(a, exp16(_mm512_mul_ps(a, _mm512_set1_ps(-2.0f))), tanh);
    return _mm512_or_ps(tanh, _mm512_and_ps(x, _mm512_set1_ps(-0.0f)));
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
