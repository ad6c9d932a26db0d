// A token's numbers, as the recurrences with a state of rows and columns read them.
#pragma once

#include <cstdint>

#include "simd/elements.h"
#include "simd/vectors.h"

namespace instsel {

template <int lanes>
using Floats = typename Vector<lanes>::Floats;

template <class Element>
INSTSEL_INLINE const Element* row_of(const Matrix<Element>& matrix, std::int64_t row) {
    return matrix.data + row * matrix.row_stride;
}

// Some numbers as float32, and zeros behind them up to `width`.
template <class Element>
INSTSEL_INLINE void load_padded(const Element* from, std::int64_t count, std::int64_t width, float* to) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
    for (std::int64_t i = count; i < width; ++i) to[i] = 0.0f;
}

}  // namespace instsel
