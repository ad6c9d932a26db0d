// log-sum-exp of many rows, the columns arriving in chunks.
#pragma once

#include <cstdint>

#include "simd/elements.h"

namespace instsel {

// Terms are exp(z - offset) with an offset that may lag behind the maximum by this much: so maximum and sum are found
// in one pass, and float32 is far from overflow (2048 exp(30) is 2e16).
constexpr float largest_lag = 30.0f;

// Per row: the largest z so far, the sum of exp(z - max) and, if wanted, the first column with that maximum.
struct RowStates {
    float* max;            // starts at -inf
    double* sum;           // starts at 0
    std::int64_t* argmax;  // starts at -1; may be null
};

// A chunk of consecutive columns of the logits.
template <class Element>
struct LogitsChunk {
    const Element* data;
    std::int64_t rows;
    std::int64_t columns;
    std::int64_t row_stride;    // in elements
    std::int64_t first_column;  // its index in the vocabulary
};

// Takes a chunk into the states. Rows with `needed[row] == 0` are not read (null: all are needed).
// A row's result depends on its own logits only, whatever the number of rows or threads.
template <class Element>
void accumulate(const LogitsChunk<Element>& chunk, const HeadTransform& head, const std::uint8_t* needed,
                const RowStates& states, int threads, InstructionSet instructions);

// max + log(sum), in the order that keeps a common offset of the logits out of the rounding of differences.
double logsumexp(float max, double sum);

// (z - max) - log(sum), at most 0; NaN if the row or z is not a number.
float logprob(float z, float max, double sum);

}  // namespace instsel
