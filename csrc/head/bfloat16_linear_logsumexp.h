// log-sum-exp of hidden @ weight.T per row for bfloat16, by tile or dot products; the logits never leave the cache.
#pragma once

#include "head/online_logsumexp.h"
#include "head/pair_logprobs.h"

namespace instsel {

// Fills the states of all rows (they need no initial value). Needs avx512_bf16 or amx. A row's value depends on its
// own hidden state and the head alone: not on the other rows, and not on the number of threads.
void bfloat16_linear_logsumexp(const Matrix<bfloat16>& hidden, const Matrix<bfloat16>& weight,
                               const HeadTransform& head, const RowStates& states, int threads,
                               InstructionSet instructions);

}  // namespace instsel
