// exp and tanh as short branch-free float32 expressions that compilers turn into vector code.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simd/instruction_sets.h"

namespace instsel {

template <class To, class From>
INSTSEL_INLINE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

constexpr float log2_e = 1.44269504f;

// 2^(factor x), to 2e-7 relative, within the range of the exponent field; NaN gives NaN. Of a float or a vector of them,
// which is handed over by reference: as a value it would need an instruction set.
//
// t = factor x is split at the nearest integer n. Adding 1.5 * 2^23 + 127 rounds t to n and leaves n + 127, which is
// the exponent field of 2^n, in the low bits: no float-to-integer conversion (undefined for NaN) is needed. The
// polynomial is a minimax fit of 2^f on [-1/2, 1/2] with the constant held at 1, so that 2^0 is exactly 1.
template <class Number>
INSTSEL_INLINE void power_of_two(const Number& x, float factor, Number& power) {
    using Bits = std::conditional_t<std::is_same<Number, float>::value, std::uint32_t, decltype(x > x)>;
    constexpr float magic = 12582912.0f + 127.0f;
    const Number shifted = x * factor + magic;
    const Number f = x * factor - (shifted - magic);
    Number p = Number{} + 0.001326472725f;
    p = p * f + 0.009671512786f;
    p = p * f + 0.05550733744f;
    p = p * f + 0.2402224208f;
    p = p * f + 0.6931469776f;
    p = p * f + 1.0f;
    Bits exponent;
    std::memcpy(&exponent, &shifted, sizeof(shifted));
    exponent <<= 23;
    std::memcpy(&power, &exponent, sizeof(exponent));
    power *= p;
}

// tanh(a) for a >= 0, to 3e-7 relative, of e = exp(-2 a): an odd polynomial near 0, where 1 - e would cancel.
template <class Number>
INSTSEL_INLINE void tanh_of(const Number& a, const Number& e, Number& tanh) {
    const Number far = (1.0f - e) / (1.0f + e);
    const Number s = a * a;
    Number q = Number{} - 0.005704985412f;
    q = q * s + 0.02063908586f;
    q = q * s - 0.05373971467f;
    q = q * s + 0.1333144219f;
    q = q * s - 0.3333328194f;
    const Number near = a + a * s * q;
    tanh = a < 0.625f ? near : far;
}

// exp(x) for x <= 88; below -87 a number of about 1e-38 stands for the result.
INSTSEL_INLINE float exp_float(float x) {
    float power;
    power_of_two(-87.0f > x ? -87.0f : x, log2_e, power);
    return power;
}

INSTSEL_INLINE float tanh_float(float x) {
    const float a = std::fabs(x);
    float tanh;
    tanh_of(a, exp_float(-2.0f * a), tanh);
    return std::copysign(tanh, x);
}

}  // namespace instsel
