// The states of a packed tree's nodes while a recurrence runs along it: each node goes on from its parent's last.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "simd/instruction_sets.h"

namespace instsel {

// Nodes one after another; a node's parent comes before it, or is -1 (none), or -2 - c (initial state c).
struct PackNodes {
    const std::int64_t* offsets;  // [count + 1]
    const std::int64_t* parents;
    std::int64_t count;
    std::vector<std::int64_t> kept;  // [count]: where the node's last state is wanted, -1: nowhere

    std::int64_t tokens() const { return offsets[count]; }
};

// Places in which nodes hold their states. The last child of a node takes its parent's, which nothing reads after it.
struct StatePlaces {
    std::vector<std::int64_t> place;  // [nodes]
    std::vector<bool> goes_on;        // [nodes]: whether the last state is read by a child or wanted
    std::int64_t count = 0;
};

StatePlaces places_of(const PackNodes& nodes);

// States of all heads as they lie in memory: entry (row, column) of head h of state i.
struct StateArray {
    float* data;
    std::int64_t state_stride;
    std::int64_t head_stride;
    std::int64_t row_stride;
    std::int64_t column_stride;
};

// Some columns of one head's states, which a thread holds as panels [rows][width] one after another, without gaps.
struct StateBlock {
    std::int64_t head;
    std::int64_t first_column;
    std::int64_t columns;  // the last panel's others are zero
    std::int64_t rows;
    std::int64_t width;  // of a panel

    std::int64_t panels() const { return (columns + width - 1) / width; }
    std::int64_t size() const { return panels() * rows * width; }
    std::int64_t place(std::int64_t row, std::int64_t column) const {
        return (column / width * rows + row) * width + column % width;
    }
};

INSTSEL_INLINE const float* block_begin(const StateArray& array, const StateBlock& block, std::int64_t state) {
    return array.data + state * array.state_stride + block.head * array.head_stride +
           block.first_column * array.column_stride;
}

INSTSEL_INLINE void load_state(const StateArray& array, const StateBlock& block, std::int64_t state, float* to) {
    const float* from = block_begin(array, block, state);
    std::memset(to, 0, std::size_t(block.size()) * sizeof(float));
    for (std::int64_t row = 0; row < block.rows; ++row) {
        for (std::int64_t i = 0; i < block.columns; ++i) {
            to[block.place(row, i)] = from[row * array.row_stride + i * array.column_stride];
        }
    }
}

INSTSEL_INLINE void store_state(const float* from, const StateBlock& block, std::int64_t state,
                                const StateArray& array) {
    float* to = const_cast<float*>(block_begin(array, block, state));
    for (std::int64_t row = 0; row < block.rows; ++row) {
        for (std::int64_t i = 0; i < block.columns; ++i) {
            to[row * array.row_stride + i * array.column_stride] = from[block.place(row, i)];
        }
    }
}

// How many blocks `walk` needs memory for.
inline std::int64_t blocks_needed(const StatePlaces& places, std::int64_t initial_count) {
    return 1 + initial_count + places.count;
}

// Runs `body.run(from, to, first, last, goes_on)` for every node with tokens first..last: it reads the state `from`,
// which may be `to`, and leaves the node's last one in `to`, if it goes on.
template <class Body>
INSTSEL_INLINE void walk(const PackNodes& nodes, const StatePlaces& places, const StateArray& initial,
                         std::int64_t initial_count, const StateArray& states, const StateBlock& block, float* memory,
                         Body& body) {
    const std::int64_t size = block.size();
    float* given = memory + size;
    float* held = given + initial_count * size;
    std::memset(memory, 0, std::size_t(size) * sizeof(float));
    for (std::int64_t i = 0; i < initial_count; ++i) load_state(initial, block, i, given + i * size);
    for (std::int64_t node = 0; node < nodes.count; ++node) {
        const std::int64_t parent = nodes.parents[node];
        const float* from = parent >= 0 ? held + places.place[parent] * size
                                        : parent == -1 ? memory : given + (-2 - parent) * size;
        float* to = held + places.place[node] * size;
        const std::int64_t first = nodes.offsets[node], last = nodes.offsets[node + 1];
        if (first < last) {
            body.run(from, to, first, last, places.goes_on[node]);
        } else if (from != to && places.goes_on[node]) {
            std::memcpy(to, from, std::size_t(size) * sizeof(float));
        }
        if (nodes.kept[node] >= 0) store_state(to, block, nodes.kept[node], states);
    }
}

}  // namespace instsel
