// Portable vectors of float32, and a small matrix product whose sums stay in such: compiled for vectors of any length.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/exponential.h"

namespace instsel {

// Four of the eight numbers of two vectors. GCC has the other builtin from version 12 on.
#if defined(__clang__)
#define INSTSEL_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef std::int32_t FourPlaces __attribute__((vector_size(16)));
#define INSTSEL_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, FourPlaces{__VA_ARGS__})
#endif

// The types for each number of lanes: GCC takes one whose size is a template's parameter for a float where it deduces.
template <int lanes>
struct VectorTypes;
#define INSTSEL_VECTOR_TYPES(lanes)                                         \
    template <>                                                             \
    struct VectorTypes<lanes> {                                             \
        typedef float Floats __attribute__((vector_size(4 * lanes)));       \
        typedef std::int32_t Ints __attribute__((vector_size(4 * lanes)));  \
    };
INSTSEL_VECTOR_TYPES(4)
INSTSEL_VECTOR_TYPES(8)
INSTSEL_VECTOR_TYPES(16)
#undef INSTSEL_VECTOR_TYPES

template <int lanes>
struct Vector : VectorTypes<lanes> {
    using typename VectorTypes<lanes>::Floats;

    INSTSEL_INLINE static void load(const float* from, Floats& to) { std::memcpy(&to, from, sizeof(to)); }
    INSTSEL_INLINE static void store(const Floats& from, float* to) { std::memcpy(to, &from, sizeof(from)); }

    // 2^t for t <= 126, as exp_float.
    INSTSEL_INLINE static void exp2(const Floats& t, Floats& power) {
        const Floats floor = Floats{} - 126.0f;
        power_of_two(floor > t ? floor : t, 1.0f, power);
    }

    // e^x for x <= 88, the same as exp_float.
    INSTSEL_INLINE static void exp(const Floats& x, Floats& power) {
        const Floats floor = Floats{} - 87.0f;
        power_of_two(floor > x ? floor : x, log2_e, power);
    }
};

// Four rows of four numbers, made columns.
INSTSEL_INLINE void transpose4(const float* const (&from)[4], float* const (&to)[4]) {
    typedef float Four __attribute__((vector_size(16)));
    Four rows[4], halves[4];
    for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], from[i], sizeof(Four));
    for (int i = 0; i < 2; ++i) {
        halves[2 * i] = INSTSEL_SHUFFLE(rows[2 * i], rows[2 * i + 1], 0, 4, 1, 5);
        halves[2 * i + 1] = INSTSEL_SHUFFLE(rows[2 * i], rows[2 * i + 1], 2, 6, 3, 7);
    }
    for (int i = 0; i < 2; ++i) {
        rows[2 * i] = INSTSEL_SHUFFLE(halves[i], halves[i + 2], 0, 1, 4, 5);
        rows[2 * i + 1] = INSTSEL_SHUFFLE(halves[i], halves[i + 2], 2, 3, 6, 7);
    }
    for (int i = 0; i < 4; ++i) std::memcpy(to[i], &rows[i], sizeof(Four));
}

// Rows and columns whose sums fit into the registers and are enough to hide the latency of an addition.
template <int lanes>
constexpr int rows_in_registers = lanes == 16 ? 8 : 4;
template <int lanes>
constexpr int columns_in_registers = lanes == 16 ? 32 : 16;

// What becomes of the sums that were in memory: new ones replace them, go on from them term by term (a sum's bits then
// do not hang on where it was interrupted), or are added to them (rounding errors are then those of short sums).
enum class Sums { replaced, continued, added };

template <int lanes, int rows, int columns>
INSTSEL_INLINE void multiply_rows(const float* a, std::int64_t row_stride, std::int64_t depth_stride,
                                  std::int64_t depth, const float* b, float* c, Sums before) {
    using Lanes = Vector<lanes>;
    using Floats = typename Lanes::Floats;
    constexpr int vectors = columns / lanes;
    Floats sums[rows][vectors] = {};
    for (int row = 0; before == Sums::continued && row < rows; ++row) {
        for (int i = 0; i < vectors; ++i) Lanes::load(c + 32 * row + lanes * i, sums[row][i]);
    }
    for (std::int64_t k = 0; k < depth; ++k) {
        Floats right[vectors];
        for (int i = 0; i < vectors; ++i) Lanes::load(b + 32 * k + lanes * i, right[i]);
        for (int row = 0; row < rows; ++row) {
            const float left = a[row * row_stride + k * depth_stride];
            for (int i = 0; i < vectors; ++i) sums[row][i] += left * right[i];
        }
    }
    for (int row = 0; row < rows; ++row) {
        for (int i = 0; i < vectors; ++i) {
            float* to = c + 32 * row + lanes * i;
            if (before == Sums::added) {
                Floats old;
                Lanes::load(to, old);
                sums[row][i] += old;
            }
            Lanes::store(sums[row][i], to);
        }
    }
}

// c[i][:columns] of sums over k of a[i * row_stride + k * depth_stride] * b[k][:columns]; b and c have 32 columns.
// `step` rows of c are found at once.
template <int lanes, int columns, int step = rows_in_registers<lanes>>
INSTSEL_INLINE void multiply(const float* a, std::int64_t rows, std::int64_t row_stride, std::int64_t depth_stride,
                             std::int64_t depth, const float* b, float* c, Sums before) {
    constexpr int part = columns < columns_in_registers<lanes> ? columns : columns_in_registers<lanes>;
    for (int column = 0; column < columns; column += part) {
        std::int64_t row = 0;
        for (; row + step <= rows; row += step) {
            multiply_rows<lanes, step, part>(a + row * row_stride, row_stride, depth_stride, depth, b + column,
                                             c + 32 * row + column, before);
        }
        for (; row < rows; ++row) {
            multiply_rows<lanes, 1, part>(a + row * row_stride, row_stride, depth_stride, depth, b + column,
                                          c + 32 * row + column, before);
        }
    }
}

}  // namespace instsel
