// The running log-sum-exp of 32 rows at once, side by side as the lanes of vectors of any length: logits arrive as
// [vocabulary, 32 rows] blocks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "head/vocabulary_segments.h"
#include "simd/elements.h"
#include "simd/vectors.h"

namespace instsel {

using GroupStates = LaneStates<group_rows, double, std::int64_t>;

// The logits of some entries for 32 rows: [entry][row].
struct GroupLogits {
    float* z;
    std::int64_t first_entry;
    std::int64_t entries;
};

INSTSEL_INLINE void transform_block(const GroupLogits& block, const HeadTransform& head) {
    for (std::int64_t entry = 0; entry < block.entries; ++entry) {
        float* z = block.z + group_rows * entry;
        const float bias = head.bias == nullptr ? 0.0f : head.bias[block.first_entry + entry];
        if (head.softcap == 0.0f) {
#pragma omp simd
            for (int row = 0; row < group_rows; ++row) z[row] = (z[row] + bias) * head.scale;
        } else {
#pragma omp simd
            for (int row = 0; row < group_rows; ++row) z[row] = apply_head(z[row], bias, head.scale, head.softcap);
        }
    }
}

// The first entry of a block with its largest logit, for the rows whose maximum rose: few, once they have seen some.
inline void find_argmax(const GroupLogits& block, const float* largest, GroupStates& states) {
    for (std::int64_t row = 0; row < group_rows; ++row) {
        if (!(largest[row] > states.max[row])) continue;
        std::int64_t entry = 0;
        while (block.z[group_rows * entry + row] != largest[row]) ++entry;
        states.argmax[row] = block.first_entry + entry;
    }
}

template <int lanes>
INSTSEL_INLINE void find_largest(const GroupLogits& block, float* largest) {
    using Floats = typename Vector<lanes>::Floats;
    for (int first = 0; first < group_rows; first += lanes) {
        Floats maxima = Floats{} - std::numeric_limits<float>::infinity();
        for (std::int64_t entry = 0; entry < block.entries; ++entry) {
            Floats z;
            Vector<lanes>::load(block.z + group_rows * entry + first, z);
            maxima = z > maxima ? z : maxima;
        }
        Vector<lanes>::store(maxima, largest + first);
    }
}

// Adds the exponentials of a block to the sums of `lanes` rows, once their offset has been raised where it must be.
template <int lanes>
INSTSEL_INLINE void add_exponentials(const GroupLogits& block, int first, const float* largest, GroupStates& states) {
    using Lanes = Vector<lanes>;
    using Floats = typename Lanes::Floats;
    constexpr int chains = 2;
    Floats before, maxima, old_maxima, shrink, sums[chains] = {};
    Lanes::load(states.offset + first, before);
    Lanes::load(largest + first, maxima);
    Lanes::load(states.max + first, old_maxima);
    const Floats offset = maxima > before + largest_lag ? maxima : before;
    for (std::int64_t entry = 0; entry < block.entries; entry += chains) {
        for (int chain = 0; chain < chains; ++chain) {
            if (entry + chain >= block.entries) continue;
            Floats z, power;
            Lanes::load(block.z + group_rows * (entry + chain) + first, z);
            Lanes::exp(z - offset, power);
            sums[chain] += power;
        }
    }
    Lanes::exp(before - offset, shrink);
    Lanes::store(maxima > old_maxima ? maxima : old_maxima, states.max + first);
    Lanes::store(offset, states.offset + first);
    alignas(64) float added[lanes], shrunk[lanes];
    Lanes::store(sums[0] + sums[1], added);
    Lanes::store(shrink, shrunk);
#pragma omp simd
    for (int row = 0; row < lanes; ++row) {
        states.sum[first + row] = states.sum[first + row] * double(shrunk[row]) + double(added[row]);
    }
}

template <int lanes>
INSTSEL_INLINE void accumulate_block(const GroupLogits& block, const HeadTransform& head, bool argmax,
                                     GroupStates& states) {
    if (!head.is_identity()) transform_block(block, head);
    alignas(64) float largest[group_rows];
    find_largest<lanes>(block, largest);
    if (argmax) find_argmax(block, largest, states);
    for (int first = 0; first < group_rows; first += lanes) {
        add_exponentials<lanes>(block, first, largest, states);
    }
}

}  // namespace instsel
