// A small matrix product in float32 whose sums stay in registers: portable code, compiled for vectors of any length.
#pragma once

#include <cstdint>
#include <cstring>

#include "instruction_sets.h"

namespace instsel {

template <int lanes>
struct Vector {
    typedef float Floats __attribute__((vector_size(4 * lanes)));
};

// Rows and columns whose sums fit into the registers and are enough to hide the latency of an addition.
template <int lanes>
constexpr int rows_in_registers = lanes == 16 ? 8 : 4;
template <int lanes>
constexpr int columns_in_registers = lanes == 16 ? 32 : 16;

template <int lanes, int rows, int columns>
INSTSEL_INLINE void multiply_rows(const float* a, std::int64_t row_stride, std::int64_t depth_stride,
                                  std::int64_t depth, const float* b, float* c, bool add) {
    using Floats = typename Vector<lanes>::Floats;
    constexpr int vectors = columns / lanes;
    Floats sums[rows][vectors] = {};
    if (add) {
        for (int row = 0; row < rows; ++row) std::memcpy(sums[row], c + 32 * row, sizeof(sums[row]));
    }
    for (std::int64_t k = 0; k < depth; ++k) {
        Floats right[vectors];
        std::memcpy(right, b + 32 * k, sizeof(right));
        for (int row = 0; row < rows; ++row) {
            const float left = a[row * row_stride + k * depth_stride];
            for (int i = 0; i < vectors; ++i) sums[row][i] += left * right[i];
        }
    }
    for (int row = 0; row < rows; ++row) std::memcpy(c + 32 * row, sums[row], sizeof(sums[row]));
}

// c[i][:columns] (+)= sum over k of a[i * row_stride + k * depth_stride] * b[k][:columns]; b and c have 32 columns.
template <int lanes, int columns>
INSTSEL_INLINE void multiply(const float* a, std::int64_t rows, std::int64_t row_stride, std::int64_t depth_stride,
                             std::int64_t depth, const float* b, float* c, bool add) {
    constexpr int step = rows_in_registers<lanes>;
    constexpr int part = columns < columns_in_registers<lanes> ? columns : columns_in_registers<lanes>;
    for (int column = 0; column < columns; column += part) {
        std::int64_t row = 0;
        for (; row + step <= rows; row += step) {
            multiply_rows<lanes, step, part>(a + row * row_stride, row_stride, depth_stride, depth, b + column,
                                             c + 32 * row + column, add);
        }
        for (; row < rows; ++row) {
            multiply_rows<lanes, 1, part>(a + row * row_stride, row_stride, depth_stride, depth, b + column,
                                          c + 32 * row + column, add);
        }
    }
}

}  // namespace instsel
