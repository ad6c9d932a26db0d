// log-sum-exp of hidden @ weight.T per row in float32 arithmetic; the logits never leave the cache.
#pragma once

#include "head/online_logsumexp.h"
#include "head/pair_logprobs.h"

namespace instsel {

// Fills the states of all rows (they need no initial value). A row's value depends on its own hidden state and the head
// alone: not on the other rows, and not on the number of threads.
template <class Element>
void float_linear_logsumexp(const Matrix<Element>& hidden, const Matrix<Element>& weight, const HeadTransform& head,
                            const RowStates& states, int threads, InstructionSet instructions);

}  // namespace instsel
