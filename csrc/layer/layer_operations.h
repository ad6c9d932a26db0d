// The elementwise parts of a decoder layer, each in one pass over its rows.
#pragma once

#include <cstdint>

#include "simd/elements.h"
#include "simd/instruction_sets.h"

namespace instsel {

enum class Activation { silu, gelu_tanh };

struct NormSettings {
    float weight_offset;
    float epsilon;
    bool centred;
    bool add;
};

// out[t] = y[t] / sqrt(mean(y[t]^2) + epsilon) * (weight + weight_offset) + bias with y = x, less its mean if `centred`;
// added to what out holds with `add`. Rows of `columns` stand one after another; bias may be none.
template <class Element>
void layer_norm(const Element* x, const Element* weight, const Element* bias, const NormSettings& settings,
                std::int64_t rows, std::int64_t columns, Element* out, int threads, InstructionSet instructions);

// gate[i] = activation(gate[i]) * up[i]
template <class Element>
void gate_in_place(Element* gate, const Element* up, std::int64_t count, Activation activation, int threads,
                   InstructionSet instructions);

// Rotary position embedding in place of the first `turned` numbers of each head: x is [rows, heads, size]; cos and sin
// are [rows, turned]. Number a is turned against b, x'[a] = x[a] cos[a] - x[b] sin[a] and
// x'[b] = x[b] cos[b] + x[a] sin[b], where a is of the first half and b of the second; or, `interleaved`, a is even and
// b the next.
template <class Element>
void rotate_in_place(Element* x, const float* cos, const float* sin, std::int64_t rows, std::int64_t heads,
                     std::int64_t size, std::int64_t turned, bool interleaved, int threads,
                     InstructionSet instructions);

}  // namespace instsel
