// Element types of the tensors that the kernels read, and their conversion to float32.
#pragma once

#include <cstdint>

#include "simd/exponential.h"

namespace instsel {

struct bfloat16 {
    std::uint16_t bits;
};
struct float16 {
    std::uint16_t bits;
};

INSTSEL_INLINE float to_float(float value) { return value; }

INSTSEL_INLINE float to_float(bfloat16 value) { return bit_cast<float>(std::uint32_t(value.bits) << 16); }

// Moving the bits up by 13 leaves a number 2^112 too small, subnormals included; only infinity and NaN need a fix.
INSTSEL_INLINE float to_float(float16 value) {
    const std::uint32_t magnitude = std::uint32_t(value.bits & 0x7fffu) << 13;
    const std::uint32_t sign = std::uint32_t(value.bits & 0x8000u) << 16;
    const float scaled = bit_cast<float>(magnitude) * 5.192296858534828e33f;
    std::uint32_t bits = bit_cast<std::uint32_t>(scaled);
    bits = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : bits;
    return bit_cast<float>(bits | sign);
}

template <class Element>
Element from_float(float value);

template <>
INSTSEL_INLINE float from_float<float>(float value) {
    return value;
}

// To the nearest, ties to even; a NaN keeps its sign and stays one.
template <>
INSTSEL_INLINE bfloat16 from_float<bfloat16>(float value) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return {std::uint16_t((value == value ? rounded : bits | 0x400000u) >> 16)};
}

// A matrix whose rows are contiguous; the stride is in elements.
template <class Element>
struct Matrix {
    const Element* data;
    std::int64_t rows;
    std::int64_t columns;
    std::int64_t row_stride;
};

// What a head does to a product of the hidden state with a row of its weight: z = cap(scale * (product + bias)).
struct HeadTransform {
    const float* bias = nullptr;  // one per column, or none
    float scale = 1.0f;
    float softcap = 0.0f;  // 0: none

    bool is_identity() const { return bias == nullptr && scale == 1.0f && softcap == 0.0f; }
};

INSTSEL_INLINE float apply_head(float product, float bias, float scale, float softcap) {
    const float z = (product + bias) * scale;
    return softcap == 0.0f ? z : softcap * tanh_float(z / softcap);
}

}  // namespace instsel
