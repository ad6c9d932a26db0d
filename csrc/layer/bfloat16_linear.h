// The matrix products of a decoder layer in bfloat16, each with what follows it: rounding, bias, residual sum, gate. A row
// of the result is the same bits whatever rows come with it.
#pragma once

#include <cstdint>

#include "layer/layer_operations.h"
#include "simd/elements.h"
#include "simd/instruction_sets.h"

namespace instsel {

// out[t, n] = sum_k x[t, k] weight[n, k] + bias[n], and what out[t, n] holds with `add`, rounded once; out is [T, N]
// without gaps, bias may be none. The sum is taken in float32, in order of k. x has a multiple of 32 columns, and not
// none. `instructions` are avx512_bf16 or amx.
void bfloat16_linear(const Matrix<bfloat16>& x, const Matrix<bfloat16>& weight, const bfloat16* bias, bool add,
                     bfloat16* out, int threads, InstructionSet instructions);

// out[t, n] = activation(g) u with g = sum_k x[t, k] gate[n, k] and u = sum_k x[t, k] up[n, k], rounded once.
void bfloat16_gated_linear(const Matrix<bfloat16>& x, const Matrix<bfloat16>& gate, const Matrix<bfloat16>& up,
                           Activation activation, bfloat16* out, int threads, InstructionSet instructions);

}  // namespace instsel
