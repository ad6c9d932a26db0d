// Passes over a block of a state, [rows][2 vectors]: what all recurrences with a state of rows and columns do.
#pragma once

#include <cstdint>

#include "simd/elements.h"
#include "head/pair_logprobs.h"
#include "simd/vectors.h"

namespace instsel {

template <int lanes>
using Floats = typename Vector<lanes>::Floats;
// Columns that a pass has in its registers.
template <int lanes>
constexpr std::int64_t block_columns = 2 * lanes;

// a = sum_r left[r] S[r], b = sum_r right[r] S[r]
template <int lanes>
INSTSEL_INLINE void read_rows(const float* state, std::int64_t rows, const float* left, const float* right,
                              Floats<lanes> (&a)[2], Floats<lanes> (&b)[2]) {
    for (int i = 0; i < 2; ++i) a[i] = b[i] = Floats<lanes>{};
    for (std::int64_t r = 0; r < rows; ++r) {
        for (int i = 0; i < 2; ++i) {
            Floats<lanes> s;
            Vector<lanes>::load(state + (2 * r + i) * lanes, s);
            a[i] += left[r] * s;
            b[i] += right[r] * s;
        }
    }
}

// One vector of a row, `at` numbers on: s = decay s + key u, from one place to another or within it.
template <int lanes>
INSTSEL_INLINE Floats<lanes> update_row(const float* from, float* to, std::int64_t at, float decay, float key,
                                        const Floats<lanes>& u) {
    Floats<lanes> s;
    Vector<lanes>::load(from + at, s);
    s = decay * s + key * u;
    Vector<lanes>::store(s, to + at);
    return s;
}

// S[r] = decay[r] S[r] + key[r] u, from one place to another or within it.
template <int lanes>
INSTSEL_INLINE void update_rows(const float* from, float* to, std::int64_t rows, const float* decay, const float* key,
                                const Floats<lanes> (&u)[2]) {
    for (std::int64_t r = 0; r < rows; ++r) {
        for (int i = 0; i < 2; ++i) {
            update_row<lanes>(from, to, (2 * r + i) * lanes, decay[r], key[r], u[i]);
        }
    }
}

// The update, then both sums over what it has made, in one pass.
template <int lanes>
INSTSEL_INLINE void update_and_read_rows(const float* from, float* to, std::int64_t rows, const float* decay,
                                         const float* key, const Floats<lanes> (&u)[2], const float* left,
                                         const float* right, Floats<lanes> (&a)[2], Floats<lanes> (&b)[2]) {
    for (int i = 0; i < 2; ++i) a[i] = b[i] = Floats<lanes>{};
    for (std::int64_t r = 0; r < rows; ++r) {
        for (int i = 0; i < 2; ++i) {
            const Floats<lanes> s = update_row<lanes>(from, to, (2 * r + i) * lanes, decay[r], key[r], u[i]);
            a[i] += left[r] * s;
            b[i] += right[r] * s;
        }
    }
}

// The update, then b = sum_r right[r] S[r].
template <int lanes>
INSTSEL_INLINE void update_and_sum_rows(const float* from, float* to, std::int64_t rows, const float* decay,
                                        const float* key, const Floats<lanes> (&u)[2], const float* right,
                                        Floats<lanes> (&b)[2]) {
    for (int i = 0; i < 2; ++i) b[i] = Floats<lanes>{};
    for (std::int64_t r = 0; r < rows; ++r) {
        for (int i = 0; i < 2; ++i) {
            const Floats<lanes> s = update_row<lanes>(from, to, (2 * r + i) * lanes, decay[r], key[r], u[i]);
            b[i] += right[r] * s;
        }
    }
}

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
