#include "recurrence/tree_delta_rule.h"

#include <cmath>
#include <utility>

#include "simd/aligned_buffer.h"
#include "simd/exponential.h"
#include "recurrence/state_rows.h"

namespace instsel {
namespace {

// What a token brings, in float32, for each row of the state.
struct TokenRows {
    float* decay;
    float* key;
    float* decayed_key;  // times the decay, so that both read the state of the token before
    float* decayed_query;
    float overlap;  // query . key

    static constexpr std::int64_t arrays = 4;
};

INSTSEL_INLINE TokenRows rows_in(float* memory, std::int64_t rows) {
    return {memory, memory + rows, memory + 2 * rows, memory + 3 * rows, 0.0f};
}

template <class Element>
INSTSEL_INLINE float load_vector(const Element* from, std::int64_t count, float* to) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (std::int64_t i = 0; i < count; ++i) {
        to[i] = to_float(from[i]);
        squares += to[i] * to[i];
    }
    return squares;
}

template <class Element>
INSTSEL_INLINE void load_token(const DeltaRule<Element>& rule, std::int64_t token, std::int64_t head, TokenRows& to) {
    const std::int64_t rows = rule.key_size;
    const std::int64_t column = head / (rule.heads / rule.key_heads) * rows;
    const float key_squares = load_vector(row_of(rule.key, token) + column, rows, to.key);
    const float query_squares = load_vector(row_of(rule.query, token) + column, rows, to.decayed_query);
    const float key_scale = rule.normalize ? 1.0f / std::sqrt(key_squares + 1e-6f) : 1.0f;
    const float query_scale = rule.normalize ? rule.scaling / std::sqrt(query_squares + 1e-6f) : rule.scaling;
    const bool per_row = rule.decay.columns != rule.heads;
    const float* logarithm = row_of(rule.decay, token) + (per_row ? head * rows : head);
    if (per_row) {
#pragma omp simd
        for (std::int64_t r = 0; r < rows; ++r) to.decay[r] = exp_float(logarithm[r]);
    } else {
        const float decay = exp_float(*logarithm);
        for (std::int64_t r = 0; r < rows; ++r) to.decay[r] = decay;
    }
    float overlap = 0.0f;
#pragma omp simd reduction(+ : overlap)
    for (std::int64_t r = 0; r < rows; ++r) {
        const float key = to.key[r] * key_scale, query = to.decayed_query[r] * query_scale;
        overlap += query * key;
        to.key[r] = key;
        to.decayed_key[r] = key * to.decay[r];
        to.decayed_query[r] = query * to.decay[r];
    }
    to.overlap = overlap;
}

template <class Element, int lanes>
struct DeltaRuleBody {
    const DeltaRule<Element>& rule;
    const StateBlock& block;
    TokenRows before;
    TokenRows now;

    // A token's update is made in the pass in which the next one reads the state, so that every token takes one pass:
    // exp(g) k^T S and exp(g) q^T S of the state before it, from which follows what it reads of its own.
    INSTSEL_INLINE void run(const float* from, float* to, std::int64_t first, std::int64_t last, bool goes_on) {
        Floats<lanes> u[2], seen[2], read[2];
        for (std::int64_t token = first; token < last; ++token) {
            load_token(rule, token, block.head, now);
            if (token == first) {
                read_rows<lanes>(from, block.rows, now.decayed_key, now.decayed_query, seen, read);
            } else {
                update_and_read_rows<lanes>(from, to, block.rows, before.decay, before.key, u, now.decayed_key,
                                            now.decayed_query, seen, read);
                from = to;
            }
            correct(token, seen, read, u);
            std::swap(before, now);
        }
        if (goes_on) update_rows<lanes>(from, to, block.rows, before.decay, before.key, u);
    }

    // u = beta (v - seen); the token's result is read + (q . k) u.
    INSTSEL_INLINE void correct(std::int64_t token, const Floats<lanes> (&seen)[2], const Floats<lanes> (&read)[2],
                                Floats<lanes> (&u)[2]) {
        alignas(64) float values[2 * lanes];
        const std::int64_t column = block.head * rule.value_size + block.first_column;
        load_padded(row_of(rule.value, token) + column, block.columns, 2 * lanes, values);
        const float beta = row_of(rule.beta, token)[block.head];
        for (int i = 0; i < 2; ++i) {
            Floats<lanes> v;
            Vector<lanes>::load(values + i * lanes, v);
            u[i] = beta * (v - seen[i]);
            Vector<lanes>::store(read[i] + now.overlap * u[i], values + i * lanes);
        }
        Element* out = rule.out + token * rule.heads * rule.value_size + column;
        for (std::int64_t i = 0; i < block.columns; ++i) out[i] = from_float<Element>(values[i]);
    }
};

template <class Element>
struct DeltaRuleWork {
    const DeltaRule<Element>& rule;
    const PackNodes& nodes;
    const StatePlaces& places;
};

// Columns of one head, in which no other has a part.
template <class Element, int lanes>
INSTSEL_INLINE void run_block(const DeltaRuleWork<Element>& work, std::int64_t index, float* memory) {
    const DeltaRule<Element>& rule = work.rule;
    const std::int64_t width = block_columns<lanes>, blocks = (rule.value_size + width - 1) / width;
    const std::int64_t first = index % blocks * width;
    const std::int64_t columns = rule.value_size - first < width ? rule.value_size - first : width;
    const StateBlock block{index / blocks, first, columns, rule.key_size, width};
    float* scratch = memory + blocks_needed(work.places, rule.initial_count) * block.size();
    const std::int64_t rows = rule.key_size;
    DeltaRuleBody<Element, lanes> body{rule, block, rows_in(scratch, rows),
                                       rows_in(scratch + TokenRows::arrays * rows, rows)};
    walk(work.nodes, work.places, rule.initial, rule.initial_count, rule.states, block, memory, body);
}

INSTSEL_VARIANTS(template <class Element>, block,
                 (const DeltaRuleWork<Element>& work, std::int64_t index, float* memory),
                 (run_block<Element, lanes>(work, index, memory)))

}  // namespace

template <class Element>
void tree_delta_rule(const DeltaRule<Element>& rule, const PackNodes& nodes, int threads,
                     InstructionSet instructions) {
    const auto run = INSTSEL_PICK(block<Element>, instructions);
    const std::int64_t width = pick(block_columns<4>, block_columns<8>, block_columns<16>, instructions);
    const StatePlaces places = places_of(nodes);
    const DeltaRuleWork<Element> work{rule, nodes, places};
    const std::int64_t blocks = rule.heads * ((rule.value_size + width - 1) / width);
    const std::int64_t numbers = blocks_needed(places, rule.initial_count) * width + 2 * TokenRows::arrays;
    const ThreadMemory memory(threads, numbers * rule.key_size * std::int64_t(sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        float* own = memory.own<float>();
#pragma omp for schedule(static)
        for (std::int64_t index = 0; index < blocks; ++index) run(work, index, own);
    }
}

template void tree_delta_rule(const DeltaRule<float>&, const PackNodes&, int, InstructionSet);
template void tree_delta_rule(const DeltaRule<bfloat16>&, const PackNodes&, int, InstructionSet);

}  // namespace instsel
