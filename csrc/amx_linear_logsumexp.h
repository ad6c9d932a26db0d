// log-sum-exp of hidden @ weight.T per row for bfloat16, by AMX tile products whose logits never leave the cache.
#pragma once

#include "online_logsumexp.h"
#include "pair_logprobs.h"

namespace instsel {

// Fills the states of all rows (they need no initial value). Needs has_amx_bfloat16(). A row's value depends on its
// own hidden state and the head alone: not on the other rows, and not on the number of threads.
void amx_linear_logsumexp(const Matrix<bfloat16>& hidden, const Matrix<bfloat16>& weight, const HeadTransform& head,
                          const RowStates& states, int threads);

}  // namespace instsel
