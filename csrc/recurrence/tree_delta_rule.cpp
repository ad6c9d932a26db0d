#include "recurrence/tree_delta_rule.h"

#include <cmath>

#include "recurrence/state_chunks.h"
#include "recurrence/token_rows.h"
#include "simd/aligned_buffer.h"
#include "simd/exponential.h"
#include "simd/subnormals.h"

namespace instsel {
namespace {

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
INSTSEL_INLINE void prefetch(const Element* from, std::int64_t count) {
    constexpr std::int64_t line = 64 / sizeof(Element);
    for (std::int64_t i = 0; i < count; i += line) __builtin_prefetch(from + i);
}

INSTSEL_INLINE void scale_vector(float* x, std::int64_t count, float factor) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) x[i] *= factor;
}

template <class Element, int lanes>
struct DeltaRuleBody {
    const DeltaRule<Element>& rule;
    const StateBlock& block;
    StateChunk<lanes, true> chunk;

    INSTSEL_INLINE void run(const float* from, float* to, std::int64_t first, std::int64_t last, bool goes_on) {
        run_chunks(chunk, block, from, to, first, last, goes_on, *this);
    }

    // A token's numbers lie far from those of the next: no processor guesses where.
    INSTSEL_INLINE void prefetch_token(std::int64_t token) {
        const std::int64_t column = block.head / (rule.heads / rule.key_heads) * rule.key_size;
        prefetch(row_of(rule.key, token) + column, rule.key_size);
        prefetch(row_of(rule.query, token) + column, rule.key_size);
        prefetch(row_of(rule.value, token) + block.head * rule.value_size + block.first_column, block.columns);
    }

    INSTSEL_INLINE void load_token(std::int64_t token, std::int64_t t) {
        const std::int64_t rows = rule.key_size;
        const std::int64_t column = block.head / (rule.heads / rule.key_heads) * rows;
        float* key = chunk.key + t * rows;
        float* query = chunk.query + t * rows;
        float* decay = chunk.decay + t * rows;
        if (token + chunk_tokens < rule.query.rows) prefetch_token(token + chunk_tokens);
        const float key_squares = load_vector(row_of(rule.key, token) + column, rows, key);
        const float query_squares = load_vector(row_of(rule.query, token) + column, rows, query);
        if (rule.normalize) scale_vector(key, rows, 1.0f / std::sqrt(key_squares + 1e-6f));
        scale_vector(query, rows,
                     rule.normalize ? rule.scaling / std::sqrt(query_squares + 1e-6f) : rule.scaling);
        const float* logarithm = row_of(rule.decay, token);
        if (rule.decay.columns == rule.heads) {
            std::fill(decay, decay + rows, exp_float(logarithm[block.head]));
            return;
        }
        logarithm += block.head * rows;
#pragma omp simd
        for (std::int64_t r = 0; r < rows; ++r) decay[r] = exp_float(logarithm[r]);
    }

    // Of a panel, token by token: u = beta (v - what the key reads), and the result is what the query reads.
    INSTSEL_INLINE void finish(std::int64_t begin, std::int64_t tokens, std::int64_t first_column) {
        alignas(64) float values[panel_columns];
        const std::int64_t columns = std::min(block.columns - first_column, panel_columns);
        const std::int64_t column = block.head * rule.value_size + block.first_column + first_column;
        for (std::int64_t t = 0; t < tokens; ++t) {
            load_padded(row_of(rule.value, begin + t) + column, columns, panel_columns, values);
            const float beta = row_of(rule.beta, begin + t)[block.head];
            for (std::int64_t i = 0; i < panel_columns; i += lanes) {
                Floats<lanes> seen, read, value, update;
                Vector<lanes>::load(chunk.sums + 2 * t * panel_columns + i, seen);
                Vector<lanes>::load(chunk.sums + (2 * t + 1) * panel_columns + i, read);
                for (std::int64_t s = 0; s < t; ++s) {
                    Vector<lanes>::load(chunk.update + s * panel_columns + i, update);
                    seen += chunk.by_key[t][s] * update;
                    read += chunk.by_query[t][s] * update;
                }
                Vector<lanes>::load(values + i, value);
                update = beta * (value - seen);
                Vector<lanes>::store(update, chunk.update + t * panel_columns + i);
                Vector<lanes>::store(read + chunk.by_query[t][t] * update, values + i);
            }
            Element* out = rule.out + (begin + t) * rule.heads * rule.value_size + column;
            for (std::int64_t i = 0; i < columns; ++i) out[i] = from_float<Element>(values[i]);
        }
    }
};

template <class Element>
struct DeltaRuleWork {
    const DeltaRule<Element>& rule;
    const PackNodes& nodes;
    const StatePlaces& places;
    HeadParts parts;
};

// Columns of one head, in which no other has a part.
template <class Element, int lanes>
INSTSEL_INLINE void run_block(const DeltaRuleWork<Element>& work, std::int64_t index, float* memory) {
    const DeltaRule<Element>& rule = work.rule;
    const StateBlock block = work.parts.block(index, rule.key_size);
    float* scratch = memory + blocks_needed(work.places, rule.initial_count) * block.size();
    DeltaRuleBody<Element, lanes> body{rule, block, {scratch, rule.key_size}};
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
    const StatePlaces places = places_of(nodes);
    const HeadParts parts(rule.heads, rule.value_size, threads);
    const DeltaRuleWork<Element> work{rule, nodes, places, parts};
    const std::int64_t numbers = blocks_needed(places, rule.initial_count) * parts.largest_block(rule.key_size) +
                                 StateChunk<1, true>::memory_for(rule.key_size);
    const ThreadMemory memory(threads, numbers * std::int64_t(sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        const SubnormalsAreZero decayed;  // keys that strong decays have all but taken away
        float* own = memory.own<float>();
#pragma omp for schedule(static)
        for (std::int64_t index = 0; index < parts.count(); ++index) run(work, index, own);
    }
}

template void tree_delta_rule(const DeltaRule<float>&, const PackNodes&, int, InstructionSet);
template void tree_delta_rule(const DeltaRule<bfloat16>&, const PackNodes&, int, InstructionSet);

}  // namespace instsel
