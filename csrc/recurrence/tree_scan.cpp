#include "recurrence/tree_scan.h"

#include "recurrence/state_chunks.h"
#include "recurrence/token_rows.h"
#include "simd/aligned_buffer.h"
#include "simd/exponential.h"
#include "simd/subnormals.h"

namespace instsel {
namespace {

template <class Element>
struct ScanWork {
    const TreeScan<Element>& scan;
    const PackNodes& nodes;
    const StatePlaces& places;
    HeadParts parts;
};

// Heads of one channel with a rate a row, all of which read and write by the same rows: channels are then columns.
template <class Element>
bool has_channels(const TreeScan<Element>& scan) {
    return scan.size == 1 && scan.groups == 1 && scan.rate.columns == scan.rows;
}

template <class Element, int lanes>
struct HeadBody {
    const TreeScan<Element>& scan;
    const StateBlock& block;
    StateChunk<lanes, false> chunk;

    INSTSEL_INLINE void run(const float* from, float* to, std::int64_t first, std::int64_t last, bool goes_on) {
        run_chunks(chunk, block, from, to, first, last, goes_on, *this);
    }

    INSTSEL_INLINE void load_token(std::int64_t token, std::int64_t t) {
        const std::int64_t rows = block.rows, group = block.head / (scan.heads / scan.groups) * rows;
        load_padded(row_of(scan.write, token) + group, rows, rows, chunk.key + t * rows);
        load_padded(row_of(scan.read, token) + group, rows, rows, chunk.query + t * rows);
        float* decay = chunk.decay + t * rows;
        const float step = row_of(scan.step_size, token)[block.head];
        const float* rate = row_of(scan.rate, block.head);
        if (scan.rate.columns == 1) {
            std::fill(decay, decay + rows, exp_float(step * *rate));
            return;
        }
#pragma omp simd
        for (std::int64_t r = 0; r < rows; ++r) decay[r] = exp_float(step * rate[r]);
    }

    // Of a panel, token by token: u = step x, and the result is what the token reads, and skip x.
    INSTSEL_INLINE void finish(std::int64_t begin, std::int64_t tokens, std::int64_t first_column) {
        alignas(64) float values[panel_columns];
        const std::int64_t columns = std::min(block.columns - first_column, panel_columns);
        const std::int64_t column = block.head * scan.size + block.first_column + first_column;
        const float skip = scan.skip == nullptr ? 0.0f : scan.skip[block.head];
        for (std::int64_t t = 0; t < tokens; ++t) {
            load_padded(row_of(scan.x, begin + t) + column, columns, panel_columns, values);
            const float step = row_of(scan.step_size, begin + t)[block.head];
            for (std::int64_t i = 0; i < panel_columns; i += lanes) {
                Floats<lanes> read, x, update;
                Vector<lanes>::load(values + i, x);
                Vector<lanes>::store(x * step, chunk.update + t * panel_columns + i);
                Vector<lanes>::load(chunk.sums + t * panel_columns + i, read);
                for (std::int64_t s = 0; s <= t; ++s) {
                    Vector<lanes>::load(chunk.update + s * panel_columns + i, update);
                    read += chunk.by_query[t][s] * update;
                }
                Vector<lanes>::store(read + skip * x, values + i);
            }
            std::copy(values, values + columns, scan.out + (begin + t) * scan.heads * scan.size + column);
        }
    }
};

// Numbers for each row of the state that a panel of channels needs: rates, and what a token writes and reads by.
constexpr std::int64_t channel_rows = panel_columns + 2;

template <class Element, int lanes>
struct ChannelBody {
    const TreeScan<Element>& scan;
    const StateBlock& block;
    float* rates;  // [rows][panel_columns]
    float* write;
    float* read;
    alignas(64) float skips[panel_columns];

    INSTSEL_INLINE void load_rates() {
        const std::int64_t first = block.first_column;
        for (std::int64_t i = 0; i < block.width; ++i) {
            skips[i] = i < block.columns && scan.skip != nullptr ? scan.skip[first + i] : 0.0f;
            for (std::int64_t r = 0; r < block.rows; ++r) {
                rates[r * block.width + i] = i < block.columns ? row_of(scan.rate, first + i)[r] : 0.0f;
            }
        }
    }

    INSTSEL_INLINE void run(const float* from, float* to, std::int64_t first, std::int64_t last, bool) {
        alignas(64) float values[panel_columns], steps[panel_columns], sums[panel_columns];
        for (std::int64_t token = first; token < last; ++token, from = to) {
            load_padded(row_of(scan.write, token), block.rows, block.rows, write);
            load_padded(row_of(scan.read, token), block.rows, block.rows, read);
            load_padded(row_of(scan.x, token) + block.first_column, block.columns, block.width, values);
            load_padded(row_of(scan.step_size, token) + block.first_column, block.columns, block.width, steps);
            for (std::int64_t i = 0; i < panel_columns; i += lanes) {
                Floats<lanes> step, x, skip, sum{};
                Vector<lanes>::load(steps + i, step);
                Vector<lanes>::load(values + i, x);
                Vector<lanes>::load(skips + i, skip);
                const Floats<lanes> u = step * x;
                for (std::int64_t r = 0; r < block.rows; ++r) {
                    const std::int64_t at = r * panel_columns + i;
                    Floats<lanes> s, rate, decay;
                    Vector<lanes>::load(from + at, s);
                    Vector<lanes>::load(rates + at, rate);
                    Vector<lanes>::exp(step * rate, decay);
                    s = decay * s + write[r] * u;
                    Vector<lanes>::store(s, to + at);
                    sum += read[r] * s;
                }
                Vector<lanes>::store(sum + skip * x, sums + i);
            }
            float* out = scan.out + token * scan.heads + block.first_column;
            for (std::int64_t i = 0; i < block.columns; ++i) out[i] = sums[i];
        }
    }
};

// Columns of one head's state, or with channels the states of some of them.
template <class Element, int lanes>
INSTSEL_INLINE void run_block(const ScanWork<Element>& work, std::int64_t index, float* memory) {
    const TreeScan<Element>& scan = work.scan;
    const StateBlock block = work.parts.block(index, scan.rows);
    float* scratch = memory + blocks_needed(work.places, scan.initial_count) * block.size();
    if (has_channels(scan)) {
        float* write = scratch + block.size();
        ChannelBody<Element, lanes> body{scan, block, scratch, write, write + block.rows, {}};
        body.load_rates();
        walk(work.nodes, work.places, scan.initial, scan.initial_count, scan.states, block, memory, body);
    } else {
        HeadBody<Element, lanes> body{scan, block, {scratch, scan.rows}};
        walk(work.nodes, work.places, scan.initial, scan.initial_count, scan.states, block, memory, body);
    }
}

INSTSEL_VARIANTS(template <class Element>, block,
                 (const ScanWork<Element>& work, std::int64_t index, float* memory),
                 (run_block<Element, lanes>(work, index, memory)))

// As if the states of all channels were one, whose columns they are.
StateArray as_columns(const StateArray& array) {
    return {array.data, array.state_stride, 0, array.row_stride, array.head_stride};
}

}  // namespace

template <class Element>
void tree_scan(const TreeScan<Element>& given, const PackNodes& nodes, int threads, InstructionSet instructions) {
    const auto run = INSTSEL_PICK(block<Element>, instructions);
    TreeScan<Element> scan = given;
    const bool channels = has_channels(scan);
    if (channels) {
        scan.initial = as_columns(scan.initial);
        scan.states = as_columns(scan.states);
    }
    const StatePlaces places = places_of(nodes);
    const HeadParts parts = channels ? HeadParts::of_panels(scan.heads) : HeadParts(scan.heads, scan.size, threads);
    const ScanWork<Element> work{scan, nodes, places, parts};
    const std::int64_t scratch =
        channels ? channel_rows * scan.rows : StateChunk<1, false>::memory_for(scan.rows);
    const std::int64_t numbers =
        blocks_needed(places, scan.initial_count) * parts.largest_block(scan.rows) + scratch;
    const ThreadMemory memory(threads, numbers * std::int64_t(sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        const SubnormalsAreZero decayed;
        float* own = memory.own<float>();
#pragma omp for schedule(static)
        for (std::int64_t index = 0; index < parts.count(); ++index) run(work, index, own);
    }
}

template void tree_scan(const TreeScan<float>&, const PackNodes&, int, InstructionSet);
template void tree_scan(const TreeScan<bfloat16>&, const PackNodes&, int, InstructionSet);

}  // namespace instsel
