#include "layer_operations.h"

#include <cmath>

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
    const Element* weight;
    float weight_offset;
    float epsilon;
    std::int64_t columns;
    Element* out;
};

template <class Element>
INSTSEL_INLINE void norm_row(const NormRow<Element>& row) {
    alignas(64) float a[strip];
    alignas(64) float b[strip];
    float squares = 0.0f;
    for (std::int64_t start = 0; start < row.columns; start += strip) {
        const std::int64_t count = row.columns - start < strip ? row.columns - start : strip;
        load(row.x + start, count, a);
        if (row.update != nullptr) {
            load(row.update + start, count, b);
#pragma omp simd
            for (std::int64_t i = 0; i < count; ++i) a[i] += b[i];
            store(a, count, row.x + start);
            load(row.x + start, count, a);  // as the model does, the norm sees the sum rounded to its type
        }
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t i = 0; i < count; ++i) sum += a[i] * a[i];
        squares += sum;
    }
    const float scale = 1.0f / std::sqrt(squares / float(row.columns) + row.epsilon);
    for (std::int64_t start = 0; start < row.columns; start += strip) {
        const std::int64_t count = row.columns - start < strip ? row.columns - start : strip;
        load(row.x + start, count, a);
        load(row.weight + start, count, b);
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) a[i] = a[i] * scale * (b[i] + row.weight_offset);
        store(a, count, row.out + start);
    }
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

template <class Element>
INSTSEL_INLINE void rotate_row(Element* x, const Element* cos, const Element* sin, std::int64_t heads,
                               std::int64_t size) {
    const std::int64_t half = size / 2;
    for (std::int64_t head = 0; head < heads; ++head, x += size) {
        for (std::int64_t start = 0; start < half; start += strip) {
            const std::int64_t count = half - start < strip ? half - start : strip;
            alignas(64) float low[strip];
            alignas(64) float high[strip];
            load(x + start, count, low);
            load(x + half + start, count, high);
            alignas(64) float low_out[strip];
#pragma omp simd
            for (std::int64_t i = 0; i < count; ++i) {
                low_out[i] = low[i] * to_float(cos[start + i]) - high[i] * to_float(sin[start + i]);
                high[i] = high[i] * to_float(cos[half + start + i]) + low[i] * to_float(sin[half + start + i]);
            }
            store(low_out, count, x + start);
            store(high, count, x + half + start);
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
                 (Element * x, const Element* cos, const Element* sin, std::int64_t heads, std::int64_t size),
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
#pragma omp parallel for schedule(static) num_threads(threads)
    for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t at = row * columns;
        run({x + at, update == nullptr ? nullptr : update + at, weight, weight_offset, epsilon, columns, out + at});
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
#pragma omp parallel for schedule(static) num_threads(threads)
    for (std::int64_t row = 0; row < rows; ++row) {
        run(x + row * heads * size, cos + row * size, sin + row * size, heads, size);
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
