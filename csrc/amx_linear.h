// The matrix products of a decoder layer with AMX, each with what follows it: rounding, bias, gate. A row of the result
// is the same bits whatever rows come with it.
#pragma once

#include <cstdint>

#include "elements.h"
#include "layer_operations.h"
#include "pair_logprobs.h"

namespace instsel {

// out[t, n] = sum_k x[t, k] weight[n, k] + bias[n], rounded once; out is [T, N] without gaps, bias may be none. The sum
// is taken in float32, 32 terms of k at a time in order. x has a multiple of 32 columns, and not none.
void amx_linear(const Matrix<bfloat16>& x, const Matrix<bfloat16>& weight, const bfloat16* bias, bfloat16* out,
                int threads);

// out[t, n] = activation(g) u with g = sum_k x[t, k] gate[n, k] and u = sum_k x[t, k] up[n, k], rounded once.
void amx_gated_linear(const Matrix<bfloat16>& x, const Matrix<bfloat16>& gate, const Matrix<bfloat16>& up,
                      Activation activation, bfloat16* out, int threads);

}  // namespace instsel
