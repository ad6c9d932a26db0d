// A few tokens at a time of a recurrence S_t = diag(d_t) S_{t-1} + k_t u_t^T whose results are q_t^T S_t: what they read
// of the state before them, and the state after them, are products of matrices; what they read of each other is small.
#pragma once

#include <algorithm>
#include <cstdint>

#include "recurrence/node_states.h"
#include "simd/vectors.h"

namespace instsel {

// Eight tokens make the products large enough and what they read of each other small.
constexpr std::int64_t chunk_tokens = 8;
// Columns of a state that lie together, as `multiply` has them.
constexpr std::int64_t panel_columns = 32;

// The work of a recurrence: whole heads, whose tokens are then prepared once, or where threads outnumber these, some of a
// head's panels.
struct HeadParts {
    std::int64_t heads;
    std::int64_t columns;  // of a head's state
    std::int64_t parts;    // of a head

    HeadParts(std::int64_t heads, std::int64_t columns, int threads) : heads(heads), columns(columns), parts(1) {
        while (parts < panels() && heads * parts < threads) ++parts;
    }

    // Of one head, a panel each.
    static HeadParts of_panels(std::int64_t columns) {
        HeadParts work(1, columns, 1);
        work.parts = std::max<std::int64_t>(1, work.panels());
        return work;
    }

    std::int64_t panels() const { return (columns + panel_columns - 1) / panel_columns; }
    std::int64_t count() const { return heads * parts; }
    std::int64_t largest_block(std::int64_t rows) const {
        return (panels() + parts - 1) / parts * rows * panel_columns;
    }

    StateBlock block(std::int64_t index, std::int64_t rows) const {
        const std::int64_t part = index % parts;
        const std::int64_t first = part * panels() / parts * panel_columns;
        const std::int64_t last = std::min((part + 1) * panels() / parts * panel_columns, columns);
        return {index / parts, first, last - first, rows, panel_columns};
    }
};

// What a chunk's tokens bring, in float32: a row of numbers for each. A delta rule reads by its keys too.
template <int lanes, bool reads_by_keys>
struct StateChunk {
    static constexpr std::int64_t reads = reads_by_keys ? 2 : 1;  // vectors by which a token reads
    // Rows that `memory_for` has room for, beside the panel's sums and updates.
    static constexpr std::int64_t arrays = (4 + reads) * chunk_tokens + 1;

    std::int64_t rows;      // of a state
    float* key;             // [tokens][rows]
    float* query;           // [tokens][rows]
    float* decay;           // [tokens][rows]
    float* last_key;        // [tokens][rows]: key s, decayed by the tokens after it up to the chunk's last
    float* reading;         // [reads * tokens][rows]: (key and) query, decayed from the chunk's beginning on
    float* whole_decay;     // [rows]: of all tokens
    float* sums;            // [reads * tokens][panel_columns]: what they read of the state before the chunk
    float* update;          // [tokens][panel_columns]
    float by_key[chunk_tokens][chunk_tokens];    // [t][s]: key t . (key s decayed up to t), s < t
    float by_query[chunk_tokens][chunk_tokens];  // [t][s]: query t . (key s decayed up to t), s <= t

    // Floats that a chunk of so many rows takes.
    static constexpr std::int64_t memory_for(std::int64_t rows) {
        return arrays * rows + (reads + 1) * chunk_tokens * panel_columns;
    }

    INSTSEL_INLINE StateChunk(float* memory, std::int64_t rows) : rows(rows) {
        const std::int64_t array = chunk_tokens * rows;
        sums = memory;
        update = sums + reads * chunk_tokens * panel_columns;
        key = update + chunk_tokens * panel_columns;
        query = key + array;
        decay = query + array;
        last_key = decay + array;
        reading = last_key + array;
        whole_decay = reading + reads * array;
    }

    // From keys, queries and decays: all that hangs on no column of the state.
    INSTSEL_INLINE void prepare(std::int64_t tokens) {
        for (std::int64_t s = 0; s < tokens; ++s) {
            float* x = last_key + s * rows;
            by_query[s][s] = first_product(s, x);
            for (std::int64_t t = s + 1; t < tokens; ++t) later_products(s, t, x);
        }
        std::fill(whole_decay, whole_decay + rows, 1.0f);
        for (std::int64_t t = 0; t < tokens; ++t) decay_readers(t);
        std::fill(reading + reads * tokens * rows, reading + reading_rows(tokens) * rows, 0.0f);
    }

    // What the tokens read of a panel of the state before them, into `sums`.
    INSTSEL_INLINE void read(std::int64_t tokens, const float* panel) {
        multiply<lanes, int(panel_columns)>(reading, reading_rows(tokens), rows, 1, rows, panel, sums, Sums::replaced);
    }

    // The panel after the chunk, with its tokens' `update`; `to` may be `from`.
    INSTSEL_INLINE void advance(std::int64_t tokens, const float* from, float* to) {
        for (std::int64_t r = 0; r < rows; ++r) {
#pragma omp simd
            for (std::int64_t i = 0; i < panel_columns; ++i) {
                to[r * panel_columns + i] = whole_decay[r] * from[r * panel_columns + i];
            }
        }
        multiply<lanes, int(panel_columns)>(last_key, rows, 1, rows, tokens, update, to, Sums::continued);
    }

  private:
    // Those of so many tokens and zeros behind them: `multiply` takes eight rows at once.
    static constexpr std::int64_t reading_rows(std::int64_t tokens) { return (reads * tokens + 7) / 8 * 8; }

    INSTSEL_INLINE float first_product(std::int64_t s, float* x) {
        const float* k = key + s * rows;
        const float* q = query + s * rows;
        float product = 0.0f;
#pragma omp simd reduction(+ : product)
        for (std::int64_t r = 0; r < rows; ++r) {
            x[r] = k[r];
            product += q[r] * k[r];
        }
        return product;
    }

    INSTSEL_INLINE void later_products(std::int64_t s, std::int64_t t, float* x) {
        const float* k = key + t * rows;
        const float* q = query + t * rows;
        const float* d = decay + t * rows;
        float of_key = 0.0f, of_query = 0.0f;
#pragma omp simd reduction(+ : of_key, of_query)
        for (std::int64_t r = 0; r < rows; ++r) {
            const float decayed = x[r] * d[r];
            x[r] = decayed;
            if (reads_by_keys) of_key += k[r] * decayed;
            of_query += q[r] * decayed;
        }
        by_key[t][s] = of_key;
        by_query[t][s] = of_query;
    }

    INSTSEL_INLINE void decay_readers(std::int64_t t) {
        const float* k = key + t * rows;
        const float* q = query + t * rows;
        const float* d = decay + t * rows;
        float* to = reading + reads * t * rows;
#pragma omp simd
        for (std::int64_t r = 0; r < rows; ++r) {
            const float decayed = whole_decay[r] * d[r];
            whole_decay[r] = decayed;
            if (reads_by_keys) to[r] = k[r] * decayed;
            to[(reads - 1) * rows + r] = q[r] * decayed;
        }
    }
};

// A node's tokens, chunk by chunk, as `walk` asks for them. `body.load_token(token, t)` puts a token's key, query and
// decay into the t-th rows of the chunk, `body.finish(begin, tokens, column)` turns the sums of a panel, which begins at
// that column of the block, into updates and results.
template <int lanes, bool reads_by_keys, class Body>
INSTSEL_INLINE void run_chunks(StateChunk<lanes, reads_by_keys>& chunk, const StateBlock& block, const float* from,
                               float* to, std::int64_t first, std::int64_t last, bool goes_on, Body& body) {
    for (std::int64_t begin = first; begin < last; begin += chunk_tokens, from = to) {
        const std::int64_t tokens = std::min(last - begin, chunk_tokens);
        for (std::int64_t t = 0; t < tokens; ++t) body.load_token(begin + t, t);
        chunk.prepare(tokens);
        for (std::int64_t panel = 0; panel < block.panels(); ++panel) {
            const std::int64_t at = panel * block.rows * panel_columns;
            chunk.read(tokens, from + at);
            body.finish(begin, tokens, panel * panel_columns);
            if (goes_on || begin + tokens < last) chunk.advance(tokens, from + at, to + at);
        }
    }
}

}  // namespace instsel
