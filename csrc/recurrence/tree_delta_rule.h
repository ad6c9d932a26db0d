// The gated delta rule along a packed tree.
#pragma once

#include "recurrence/node_states.h"
#include "head/pair_logprobs.h"

namespace instsel {

// Heads lie side by side in the columns of a token's row: [tokens, heads * size].
template <class Element>
struct DeltaRule {
    Matrix<Element> query;
    Matrix<Element> key;
    Matrix<Element> value;
    Matrix<float> decay;  // one a head, or one a row of its state
    Matrix<float> beta;
    std::int64_t key_heads;
    std::int64_t heads;
    std::int64_t key_size;    // rows of a state
    std::int64_t value_size;  // its columns
    float scaling;
    bool normalize;
    StateArray initial;
    std::int64_t initial_count;
    StateArray states;
    Element* out;  // [tokens, heads * value_size]
};

template <class Element>
void tree_delta_rule(const DeltaRule<Element>& rule, const PackNodes& nodes, int threads, InstructionSet instructions);

}  // namespace instsel
