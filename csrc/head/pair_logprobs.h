// Log-probabilities of (row, target) pairs, once the rows' log-sum-exps are known.
#pragma once

#include <cstdint>

#include "head/online_logsumexp.h"
#include "simd/elements.h"

namespace instsel {

struct Pairs {
    const std::int64_t* rows;
    const std::int64_t* targets;
    const std::uint8_t* mask;  // null: every pair counts
    std::int64_t count;
};

// The position of the first unmasked pair whose row or target is out of range, or -1.
std::int64_t first_out_of_range(const Pairs& pairs, std::int64_t num_rows, std::int64_t vocabulary);

// needed[row] = 1 for the rows of unmasked pairs, 0 for the others.
void mark_needed_rows(const Pairs& pairs, std::int64_t num_rows, std::uint8_t* needed);

// From logits that are in memory; masked pairs become NaN.
template <class Element>
void pair_logprobs_from_logits(const Matrix<Element>& logits, const Pairs& pairs, const HeadTransform& head,
                               const RowStates& states, float* logprobs);

// From hidden states [R, H] and the head's weight [V, H]: one float32 dot product a pair, in a fixed order.
template <class Element>
void pair_logprobs_from_hidden(const Matrix<Element>& hidden, const Matrix<Element>& weight, const Pairs& pairs,
                               const HeadTransform& head, const RowStates& states, float* logprobs, int threads,
                               InstructionSet instructions);

// max and sum -> log-sum-exp; argmax -> -1 where that is not finite; NaN and -1 where needed[row] is 0.
void finish_rows(const RowStates& states, std::int64_t num_rows, const std::uint8_t* needed, float* logsumexps);

}  // namespace instsel
