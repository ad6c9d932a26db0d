// exp and tanh as short branch-free float32 expressions that compilers turn into vector code.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "instruction_sets.h"

namespace instsel {

template <class To, class From>
INSTSEL_INLINE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

// exp(x) for x <= 88, to 2e-7 relative; NaN gives NaN; below -87 a number of about 1e-38 stands for the result.
//
// 2^t with t = x log2(e) is split at the nearest integer n. Adding 1.5 * 2^23 + 127 rounds t to n and leaves n + 127,
// the exponent field of 2^n, in the low bits: no float-to-integer conversion (undefined for NaN) is needed. The
// polynomial is a minimax fit of 2^f on [-1/2, 1/2] with the constant held at 1, so that exp(0) is exactly 1.
INSTSEL_INLINE float exp_float(float x) {
    constexpr float log2_e = 1.44269504f;
    constexpr float magic = 12582912.0f + 127.0f;
    const float bounded = -87.0f > x ? -87.0f : x;
    const float shifted = bounded * log2_e + magic;
    const float f = bounded * log2_e - (shifted - magic);
    float p = 0.001326472725f;
    p = p * f + 0.009671512786f;
    p = p * f + 0.05550733744f;
    p = p * f + 0.2402224208f;
    p = p * f + 0.6931469776f;
    p = p * f + 1.0f;
    return p * bit_cast<float>(bit_cast<std::uint32_t>(shifted) << 23);
}

// tanh(x) to 3e-7 relative: an odd polynomial near 0, where 1 - 2 / (exp(2x) + 1) would cancel.
INSTSEL_INLINE float tanh_float(float x) {
    const float a = std::fabs(x);
    const float e = exp_float(-2.0f * a);
    const float far = (1.0f - e) / (1.0f + e);
    const float s = a * a;
    float q = -0.005704985412f;
    q = q * s + 0.02063908586f;
    q = q * s - 0.05373971467f;
    q = q * s + 0.1333144219f;
    q = q * s - 0.3333328194f;
    const float near = a + a * s * q;
    return std::copysign(a < 0.625f ? near : far, x);
}

}  // namespace instsel
