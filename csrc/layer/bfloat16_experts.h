// The experts of a mixture that the rows of a pack have chosen, in one call: gated networks in bfloat16 whose rows are
// sorted by expert. A row of the result is the same bits whatever rows come with it.
#pragma once

#include <cstdint>

#include "simd/elements.h"
#include "simd/instruction_sets.h"

namespace instsel {

// A matrix [outputs, depth] for each expert, anyhow in memory: numbers of the depth, or outputs, follow each other, or
// outputs stand in every other place.
struct ExpertWeights {
    const bfloat16* data;
    std::int64_t experts, outputs, depth;
    std::int64_t expert_stride, output_stride, depth_stride;
    const bfloat16* bias;  // [experts, outputs], or none
    std::int64_t bias_expert_stride, bias_stride;
};

// gate(g, u) = a sigmoid(alpha a) (c + offset) with a = min(g, limit) and c = u between -limit and limit; or, with
// `gelu_tanh`, gelu(a) in the place of the first product.
struct ExpertGate {
    bool gelu_tanh;
    float alpha, limit, offset;
};

// The experts of `count` rows: `chosen` of them each, with their weights.
struct ChosenExperts {
    const std::int64_t* experts;  // [count, chosen]; one that is not there contributes nothing
    const float* weights;
    std::int64_t count, chosen;
};

// Bytes that `bfloat16_experts` works in.
std::int64_t experts_bytes(const ChosenExperts& chosen, const ExpertWeights& gate);

// out[t] = sum_k weight[t, k] e(x[t]), e = down_e(gate(gate_e(x), up_e(x))) for the expert that row t has chosen as its
// k-th. Sums are float32, in order of the depth and of k; what is between two products, and each expert's result, is
// rounded. Hidden and intermediate sizes are multiples of 32. `memory` is aligned to 64 bytes.
void bfloat16_experts(const Matrix<bfloat16>& x, const ChosenExperts& chosen, const ExpertWeights& gate,
                      const ExpertWeights& up, const ExpertWeights& down, const ExpertGate& function,
                      std::uint8_t* memory, bfloat16* out, int threads, InstructionSet instructions);

}  // namespace instsel
