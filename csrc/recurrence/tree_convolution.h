// A short causal convolution of each channel along a packed tree.
#pragma once

#include "recurrence/node_states.h"
#include "head/pair_logprobs.h"

namespace instsel {

template <class Element>
struct TreeConvolution {
    Matrix<Element> x;  // [tokens, channels]
    const float* taps;  // [width, channels]
    const float* bias;  // [channels], or null
    std::int64_t width;
    bool silu;
    const Element* initial;  // [count, width - 1, channels]: the last inputs of paths
    Element* ends;           // the same of the kept nodes
    Element* out;            // [tokens, channels]
};

template <class Element>
void tree_convolution(const TreeConvolution<Element>& convolution, const PackNodes& nodes, int threads,
                      InstructionSet instructions);

}  // namespace instsel
