#include "layer_operations.h"

#include <cmath>
#include <vector>

#include "aligned_buffer.h"

namespace instsel {
namespace {

// Loops run over strips of this many elements held in float32: they vectorise whatever the element type.
constexpr std::int64_t strip = 256;
constexpr std::int64_t gate_block = 16384;

template <class Element>
INSTSEL_INLINE void load(const Element* from, std::int64_t count, float* to) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

template <class Element>
INSTSEL_INLINE void store(const float* from, std::int64_t count, Element* to) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) to[i] = from_float<Element>(from[i]);
}

template <class Element>
struct NormRow {
    Element* x;
    const Element* update;
    const float* weight;  // with its offset
    float epsilon;
    std::int64_t columns;
    Element* out;
    float* values;  // memory for the row in float32
};

// Numbers whose squares are added to sums of their own, so that no sum has to wait for the one before.
constexpr std::int64_t sums_at_once = 64;

template <class Element>
INSTSEL_INLINE void add_squares(const NormRow<Element>& row, std::int64_t start, std::int64_t count, float* sums) {
    Element* x = row.x + start;
    float* values = row.values + start;
    if (row.update != nullptr) {
        const Element* update = row.update + start;
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) {
            // As the model does, the norm sees the sum rounded to its type.
            x[i] = from_float<Element>(to_float(x[i]) + to_float(update[i]));
        }
    }
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
        values[i] = to_float(x[i]);
        sums[i] += values[i] * values[i];
    }
}

template <class Element>
INSTSEL_INLINE void norm_row(const NormRow<Element>& row) {
    alignas(64) float sums[sums_at_once] = {};
    std::int64_t start = 0;
    for (; start + sums_at_once <= row.columns; start += sums_at_once) add_squares(row, start, sums_at_once, sums);
    add_squares(row, start, row.columns - start, sums);
    for (std::int64_t width = sums_at_once / 2; width > 0; width /= 2) {
        for (std::int64_t i = 0; i < width; ++i) sums[i] += sums[i + width];
    }
    const float scale = 1.0f / std::sqrt(sums[0] / float(row.columns) + row.epsilon);
    const float* values = row.values;
    Element* out = row.out;
#pragma omp simd
    for (std::int64_t i = 0; i < row.columns; ++i) out[i] = from_float<Element>(values[i] * scale * row.weight[i]);
}

INSTSEL_INLINE float silu(float x) { return x / (1.0f + exp_float(x > -80.0f ? -x : 80.0f)); }

INSTSEL_INLINE float gelu_tanh(float x) {
    const float inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + tanh_float(inner));
}

template <class Element>
INSTSEL_INLINE void gate_strip(Element* gate, const Element* up, std::int64_t count, Activation activation) {
    alignas(64) float a[strip];
    alignas(64) float b[strip];
    load(gate, count, a);
    load(up, count, b);
    if (activation == Activation::silu) {
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) a[i] = silu(a[i]) * b[i];
    } else {
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) a[i] = gelu_tanh(a[i]) * b[i];
    }
    store(a, count, gate);
}

template <class Element>
INSTSEL_INLINE void gate_range(Element* gate, const Element* up, std::int64_t count, Activation activation) {
    for (std::int64_t start = 0; start < count; start += strip) {
        gate_strip(gate + start, up + start, count - start < strip ? count - start : strip, activation);
    }
}

// cos and sin are those of the row in float32.
template <class Element>
INSTSEL_INLINE void rotate_row(Element* x, const float* cos, const float* sin, std::int64_t heads, std::int64_t size) {
    const std::int64_t half = size / 2;
    for (std::int64_t head = 0; head < heads; ++head, x += size) {
#pragma omp simd
        for (std::int64_t i = 0; i < half; ++i) {
            const float low = to_float(x[i]), high = to_float(x[half + i]);
            x[i] = from_float<Element>(low * cos[i] - high * sin[i]);
            x[half + i] = from_float<Element>(high * cos[half + i] + low * sin[half + i]);
        }
    }
}

// Each inlined body once per instruction set.
#define INSTSEL_VARIANTS(name, parameters, call)                                \
    template <class Element>                                                    \
    void plain_##name parameters { call; }                                      \
    template <class Element>                                                    \
    INSTSEL_AVX2 void avx2_##name parameters { call; }                          \
    template <class Element>                                                    \
    INSTSEL_AVX512 void avx512_##name parameters { call; }

INSTSEL_VARIANTS(norm, (const NormRow<Element>& row), norm_row(row))
INSTSEL_VARIANTS(gate, (Element * gate, const Element* up, std::int64_t count, Activation activation),
                 gate_range(gate, up, count, activation))
INSTSEL_VARIANTS(rotate,
                 (Element * x, const float* cos, const float* sin, std::int64_t heads, std::int64_t size),
                 rotate_row(x, cos, sin, heads, size))
#undef INSTSEL_VARIANTS

template <class Function>
Function pick(Function plain, Function avx2, Function avx512, InstructionSet instructions) {
    return instructions >= InstructionSet::avx512 ? avx512 : instructions == InstructionSet::avx2 ? avx2 : plain;
}

}  // namespace

template <class Element>
void rms_norm(Element* x, const Element* update, const Element* weight, float weight_offset, float epsilon,
              std::int64_t rows, std::int64_t columns, Element* out, int threads, InstructionSet instructions) {
    const auto run = pick(plain_norm<Element>, avx2_norm<Element>, avx512_norm<Element>, instructions);
    std::vector<float> factors(columns);
    for (std::int64_t i = 0; i < columns; ++i) factors[i] = to_float(weight[i]) + weight_offset;
    const ThreadMemory memory(threads, columns * std::int64_t(sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        float* values = memory.own<float>();
#pragma omp for schedule(static)
        for (std::int64_t row = 0; row < rows; ++row) {
            const std::int64_t at = row * columns;
            run({x + at, update == nullptr ? nullptr : update + at, factors.data(), epsilon, columns, out + at,
                 values});
        }
    }
}

template <class Element>
void gate_in_place(Element* gate, const Element* up, std::int64_t count, Activation activation, int threads,
                   InstructionSet instructions) {
    const auto run = pick(plain_gate<Element>, avx2_gate<Element>, avx512_gate<Element>, instructions);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (std::int64_t start = 0; start < count; start += gate_block) {
        run(gate + start, up + start, count - start < gate_block ? count - start : gate_block, activation);
    }
}

template <class Element>
void rotate_in_place(Element* x, const Element* cos, const Element* sin, std::int64_t rows, std::int64_t heads,
                     std::int64_t size, int threads, InstructionSet instructions) {
    const auto run = pick(plain_rotate<Element>, avx2_rotate<Element>, avx512_rotate<Element>, instructions);
    const ThreadMemory memory(threads, 2 * size * std::int64_t(sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        float* turn = memory.own<float>();
#pragma omp for schedule(static)
        for (std::int64_t row = 0; row < rows; ++row) {
            for (std::int64_t i = 0; i < size; ++i) {
                turn[i] = to_float(cos[row * size + i]);
                turn[size + i] = to_float(sin[row * size + i]);
            }
            run(x + row * heads * size, turn, turn + size, heads, size);
        }
    }
}

#define INSTSEL_INSTANCES(Element)                                                                                   \
    template void rms_norm(Element*, const Element*, const Element*, float, float, std::int64_t, std::int64_t,       \
                           Element*, int, InstructionSet);                                                           \
    template void gate_in_place(Element*, const Element*, std::int64_t, Activation, int, InstructionSet);            \
    template void rotate_in_place(Element*, const Element*, const Element*, std::int64_t, std::int64_t,              \
                                  std::int64_t, int, InstructionSet);
INSTSEL_INSTANCES(float)
INSTSEL_INSTANCES(bfloat16)
#undef INSTSEL_INSTANCES

}  // namespace instsel
