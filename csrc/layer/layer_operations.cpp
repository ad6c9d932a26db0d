#include "layer/layer_operations.h"

#include <cmath>
#include <vector>

#include "simd/aligned_buffer.h"

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
    const Element* x;
    const float* weight;  // with its offset
    const float* bias;    // may be none
    float epsilon;
    bool centred;
    bool add;
    std::int64_t columns;
    Element* out;
    float* values;  // memory for the row in float32
};

// Numbers that are added to sums of their own, so that no sum has to wait for the one before.
constexpr std::int64_t sums_at_once = 64;

INSTSEL_INLINE float sum_of(float* sums) {
    for (std::int64_t width = sums_at_once / 2; width > 0; width /= 2) {
        for (std::int64_t i = 0; i < width; ++i) sums[i] += sums[i + width];
    }
    return sums[0];
}

template <class Element>
INSTSEL_INLINE float mean_of(const NormRow<Element>& row) {
    alignas(64) float sums[sums_at_once] = {};
    for (std::int64_t start = 0; start < row.columns; start += sums_at_once) {
        const std::int64_t count = row.columns - start < sums_at_once ? row.columns - start : sums_at_once;
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) sums[i] += to_float(row.x[start + i]);
    }
    return sum_of(sums) / float(row.columns);
}

template <class Element>
INSTSEL_INLINE void add_squares(const NormRow<Element>& row, float mean, std::int64_t start, std::int64_t count,
                                float* sums) {
    const Element* x = row.x + start;
    float* values = row.values + start;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
        values[i] = to_float(x[i]) - mean;
        sums[i] += values[i] * values[i];
    }
}

template <class Element>
INSTSEL_INLINE void norm_row(const NormRow<Element>& row) {
    const float mean = row.centred ? mean_of(row) : 0.0f;
    alignas(64) float sums[sums_at_once] = {};
    std::int64_t start = 0;
    for (; start + sums_at_once <= row.columns; start += sums_at_once) {
        add_squares(row, mean, start, sums_at_once, sums);
    }
    add_squares(row, mean, start, row.columns - start, sums);
    const float scale = 1.0f / std::sqrt(sum_of(sums) / float(row.columns) + row.epsilon);
    const float* bias = row.bias;
    float* values = row.values;
    Element* out = row.out;
    if (bias == nullptr && !row.add) {
#pragma omp simd
        for (std::int64_t i = 0; i < row.columns; ++i) out[i] = from_float<Element>(values[i] * scale * row.weight[i]);
        return;
    }
#pragma omp simd
    for (std::int64_t i = 0; i < row.columns; ++i) values[i] = values[i] * scale * row.weight[i];
    if (bias != nullptr) {
#pragma omp simd
        for (std::int64_t i = 0; i < row.columns; ++i) values[i] += bias[i];
    }
    if (row.add) {
#pragma omp simd
        for (std::int64_t i = 0; i < row.columns; ++i) values[i] += to_float(out[i]);
    }
    store(values, row.columns, out);
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

// cos and sin are those of the row, `turned` numbers each.
template <class Element>
INSTSEL_INLINE void rotate_row(Element* x, const float* cos, const float* sin, std::int64_t heads, std::int64_t size,
                               std::int64_t turned, bool interleaved) {
    const std::int64_t half = turned / 2;
    for (std::int64_t head = 0; head < heads; ++head, x += size) {
        if (interleaved) {
#pragma omp simd
            for (std::int64_t i = 0; i < half; ++i) {
                const float low = to_float(x[2 * i]), high = to_float(x[2 * i + 1]);
                x[2 * i] = from_float<Element>(low * cos[2 * i] - high * sin[2 * i]);
                x[2 * i + 1] = from_float<Element>(high * cos[2 * i + 1] + low * sin[2 * i + 1]);
            }
            continue;
        }
#pragma omp simd
        for (std::int64_t i = 0; i < half; ++i) {
            const float low = to_float(x[i]), high = to_float(x[half + i]);
            x[i] = from_float<Element>(low * cos[i] - high * sin[i]);
            x[half + i] = from_float<Element>(high * cos[half + i] + low * sin[half + i]);
        }
    }
}

INSTSEL_VARIANTS(template <class Element>, norm, (const NormRow<Element>& row), norm_row(row))
INSTSEL_VARIANTS(template <class Element>, gate,
                 (Element * gate, const Element* up, std::int64_t count, Activation activation),
                 gate_range(gate, up, count, activation))
INSTSEL_VARIANTS(template <class Element>, rotate,
                 (Element * x, const float* cos, const float* sin, std::int64_t heads, std::int64_t size,
                  std::int64_t turned, bool interleaved),
                 rotate_row(x, cos, sin, heads, size, turned, interleaved))

}  // namespace

template <class Element>
void layer_norm(const Element* x, const Element* weight, const Element* bias, const NormSettings& settings,
                std::int64_t rows, std::int64_t columns, Element* out, int threads, InstructionSet instructions) {
    const auto run = INSTSEL_PICK(norm<Element>, instructions);
    std::vector<float> factors(columns), addends(bias == nullptr ? 0 : columns);
    for (std::int64_t i = 0; i < columns; ++i) factors[i] = to_float(weight[i]) + settings.weight_offset;
    if (bias != nullptr) load(bias, columns, addends.data());
    const ThreadMemory memory(threads, columns * std::int64_t(sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        float* values = memory.own<float>();
#pragma omp for schedule(static)
        for (std::int64_t row = 0; row < rows; ++row) {
            run({x + row * columns, factors.data(), bias == nullptr ? nullptr : addends.data(), settings.epsilon,
                 settings.centred, settings.add, columns, out + row * columns, values});
        }
    }
}

template <class Element>
void gate_in_place(Element* gate, const Element* up, std::int64_t count, Activation activation, int threads,
                   InstructionSet instructions) {
    const auto run = INSTSEL_PICK(gate<Element>, instructions);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (std::int64_t start = 0; start < count; start += gate_block) {
        run(gate + start, up + start, count - start < gate_block ? count - start : gate_block, activation);
    }
}

template <class Element>
void rotate_in_place(Element* x, const float* cos, const float* sin, std::int64_t rows, std::int64_t heads,
                     std::int64_t size, std::int64_t turned, bool interleaved, int threads,
                     InstructionSet instructions) {
    const auto run = INSTSEL_PICK(rotate<Element>, instructions);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (std::int64_t row = 0; row < rows; ++row) {
        run(x + row * heads * size, cos + row * turned, sin + row * turned, heads, size, turned, interleaved);
    }
}

#define INSTSEL_INSTANCES(Element)                                                                                   \
    template void layer_norm(const Element*, const Element*, const Element*, const NormSettings&, std::int64_t,      \
                             std::int64_t, Element*, int, InstructionSet);                                           \
    template void gate_in_place(Element*, const Element*, std::int64_t, Activation, int, InstructionSet);            \
    template void rotate_in_place(Element*, const float*, const float*, std::int64_t, std::int64_t, std::int64_t,    \
                                  std::int64_t, bool, int, InstructionSet);
INSTSEL_INSTANCES(float)
INSTSEL_INSTANCES(bfloat16)
#undef INSTSEL_INSTANCES

}  // namespace instsel
