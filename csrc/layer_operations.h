// The elementwise parts of a decoder layer, each in one pass over its rows.
#pragma once

#include <cstdint>

#include "elements.h"
#include "instruction_sets.h"

namespace instsel {

enum class Activation { silu, gelu_tanh };

// out[t] = x[t] / sqrt(mean(x[t]^2) + epsilon) * (weight + weight_offset), rows of `columns` one after another. Where
// `update` is given, x[t] += update[t] comes first and is kept in x.
template <class Element>
void rms_norm(Element* x, const Element* update, const Element* weight, float weight_offset, float epsilon,
              std::int64_t rows, std::int64_t columns, Element* out, int threads, InstructionSet instructions);

// gate[i] = activation(gate[i]) * up[i]
template <class Element>
void gate_in_place(Element* gate, const Element* up, std::int64_t count, Activation activation, int threads,
                   InstructionSet instructions);

// Rotary position embedding in place: x is [rows, heads, size]; cos and sin are [rows, size]. With h = size / 2,
// x'[i] = x[i] cos[i] - x[i + h] sin[i] and x'[i + h] = x[i + h] cos[i + h] + x[i] sin[i + h] for i < h.
template <class Element>
void rotate_in_place(Element* x, const Element* cos, const Element* sin, std::int64_t rows, std::int64_t heads,
                     std::int64_t size, int threads, InstructionSet instructions);

}  // namespace instsel
