// How a head's vocabulary is divided between threads, and how what was found in its parts is joined for each row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "head/online_logsumexp.h"

namespace instsel {

// Vocabulary entries whose sums are kept apart and joined at the end, in order. A row's bits hang on this division,
// which is the same for all rows and any number of threads.
constexpr std::int64_t segment_entries = 4096;
// Packed hidden states and states of segments of one pass over the rows, so that memory does not grow with the rows.
constexpr std::int64_t pass_bytes = 16 << 20;
// Rows come to the kernels in groups of 32.
constexpr std::int64_t group_rows = 32;

inline std::int64_t segment_count(std::int64_t vocabulary) {
    return (vocabulary + segment_entries - 1) / segment_entries;
}

// The work of one pass: each segment against all groups of rows, or, where threads outnumber segments, parts of them.
struct SegmentedWork {
    std::int64_t vocabulary;
    std::int64_t groups;
    std::int64_t segments;
    std::int64_t parts;  // into which the groups are divided; no row's bits depend on it

    SegmentedWork(std::int64_t vocabulary, std::int64_t rows, int threads)
        : vocabulary(vocabulary),
          groups((rows + group_rows - 1) / group_rows),
          segments(segment_count(vocabulary)) {
        // Twice as many units as threads, that none waits long for another; but at least 128 rows a part, for which
        // the weights of a segment are fetched anew.
        const std::int64_t wanted = segments == 0 ? 1 : (2 * threads + segments - 1) / segments;
        parts = std::max<std::int64_t>(1, std::min(wanted, groups / 4));
    }

    std::int64_t units() const { return segments * parts; }
};

// A unit of parallel work: one segment and some of the groups.
struct SegmentUnit {
    std::int64_t segment;
    std::int64_t first_entry;
    std::int64_t last_entry;
    std::int64_t first_group;
    std::int64_t last_group;

    SegmentUnit(const SegmentedWork& work, std::int64_t unit)
        : segment(unit / work.parts),
          first_entry(segment * segment_entries),
          last_entry(std::min(work.vocabulary, first_entry + segment_entries)),
          first_group(work.groups * (unit % work.parts) / work.parts),
          last_group(work.groups * (unit % work.parts + 1) / work.parts) {}
};

inline std::int64_t rows_of_a_pass(std::int64_t bytes_per_row) {
    return std::max<std::int64_t>(1, pass_bytes / bytes_per_row / group_rows) * group_rows;
}

// The running log-sum-exps of rows side by side, as the lanes of vectors.
template <int rows, class Sum, class Index>
struct alignas(64) LaneStates {
    float max[rows];
    float offset[rows];
    Sum sum[rows];  // of exp(z - offset)
    Index argmax[rows];

    void clear() {
        std::fill_n(max, rows, -std::numeric_limits<float>::infinity());
        std::fill_n(offset, rows, std::numeric_limits<float>::lowest());
        std::fill_n(sum, rows, Sum(0));
        std::fill_n(argmax, rows, Index(-1));
    }
};

// Joins the segments of one row, whose states lie `stride` apart, in the order of the vocabulary.
template <class States>
void join_segments(const States* states, std::int64_t segments, std::int64_t stride, std::int64_t lane,
                   std::int64_t row, const RowStates& out) {
    float largest = -std::numeric_limits<float>::infinity();
    std::int64_t argmax = -1;
    for (std::int64_t segment = 0; segment < segments; ++segment) {
        const States& state = states[segment * stride];
        if (state.max[lane] > largest) {
            largest = state.max[lane];
            argmax = state.argmax[lane];
        }
    }
    double sum = 0.0;
    for (std::int64_t segment = 0; segment < segments; ++segment) {
        const States& state = states[segment * stride];
        // A segment of nothing but -inf has counted them at about 1e-38 each; one with a NaN must be kept.
        if (!(state.max[lane] > -std::numeric_limits<float>::infinity()) && !std::isnan(state.sum[lane])) continue;
        sum += double(state.sum[lane]) * std::exp(double(state.offset[lane]) - double(largest));
    }
    out.max[row] = largest;
    out.sum[row] = sum;
    if (out.argmax != nullptr) out.argmax[row] = argmax;
}

}  // namespace instsel
