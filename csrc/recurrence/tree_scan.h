// A selective state space (Mamba-2, and Mamba with heads of one channel) along a packed tree.
#pragma once

#include "recurrence/node_states.h"
#include "head/pair_logprobs.h"

namespace instsel {

// Heads and groups lie side by side in the columns of a token's row.
template <class Element>
struct TreeScan {
    Matrix<Element> x;
    Matrix<float> step_size;  // one a head
    Matrix<float> rate;       // [heads, 1], or [heads, rows]
    Matrix<Element> write;
    Matrix<Element> read;
    const float* skip;  // [heads], or null
    std::int64_t groups;
    std::int64_t heads;
    std::int64_t rows;  // of a state
    std::int64_t size;  // of a head: the columns of a state
    StateArray initial;
    std::int64_t initial_count;
    StateArray states;
    float* out;  // [tokens, heads * size]
};

template <class Element>
void tree_scan(const TreeScan<Element>& scan, const PackNodes& nodes, int threads, InstructionSet instructions);

}  // namespace instsel
