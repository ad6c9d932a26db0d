#include "recurrence/tree_scan.h"

#include "simd/aligned_buffer.h"
#include "simd/exponential.h"
#include "recurrence/state_rows.h"

namespace instsel {
namespace {

template <class Element>
struct ScanWork {
    const TreeScan<Element>& scan;
    const PackNodes& nodes;
    const StatePlaces& places;
};

// Heads of one channel with a rate a row, all of which read and write by the same rows: channels are then columns.
template <class Element>
bool has_channels(const TreeScan<Element>& scan) {
    return scan.size == 1 && scan.groups == 1 && scan.rate.columns == scan.rows;
}

// Numbers for each row of the state that a token brings, or that a block needs.
constexpr std::int64_t row_arrays(std::int64_t width) { return 3 + width; }

template <class Element, int lanes>
struct HeadBody {
    const TreeScan<Element>& scan;
    const StateBlock& block;
    float* decay;  // three numbers for each row
    float* write;
    float* read;

    INSTSEL_INLINE void run(const float* from, float* to, std::int64_t first, std::int64_t last, bool) {
        alignas(64) float values[2 * lanes], sums[2 * lanes];
        const std::int64_t head = block.head, group = head / (scan.heads / scan.groups) * block.rows;
        const std::int64_t column = head * scan.size + block.first_column;
        const float skip = scan.skip == nullptr ? 0.0f : scan.skip[head];
        const float* rate = row_of(scan.rate, head);
        for (std::int64_t token = first; token < last; ++token, from = to) {
            load_padded(row_of(scan.write, token) + group, block.rows, block.rows, write);
            load_padded(row_of(scan.read, token) + group, block.rows, block.rows, read);
            load_padded(row_of(scan.x, token) + column, block.columns, block.width, values);
            const float step = row_of(scan.step_size, token)[head];
            if (scan.rate.columns == 1) {
                const float factor = exp_float(step * *rate);
                for (std::int64_t r = 0; r < block.rows; ++r) decay[r] = factor;
            } else {
#pragma omp simd
                for (std::int64_t r = 0; r < block.rows; ++r) decay[r] = exp_float(step * rate[r]);
            }
            Floats<lanes> u[2], b[2];
            for (int i = 0; i < 2; ++i) {
                Vector<lanes>::load(values + i * lanes, u[i]);
                u[i] = u[i] * step;
            }
            update_and_sum_rows<lanes>(from, to, block.rows, decay, write, u, read, b);
            for (int i = 0; i < 2; ++i) Vector<lanes>::store(b[i], sums + i * lanes);
            float* out = scan.out + token * scan.heads * scan.size + column;
            for (std::int64_t i = 0; i < block.columns; ++i) out[i] = sums[i] + skip * values[i];
        }
    }
};

template <class Element, int lanes>
struct ChannelBody {
    const TreeScan<Element>& scan;
    const StateBlock& block;
    float* rates;  // [rows][width]
    float* write;
    float* read;
    alignas(64) float skips[2 * lanes];

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
        alignas(64) float values[2 * lanes], steps[2 * lanes], sums[2 * lanes];
        for (std::int64_t token = first; token < last; ++token, from = to) {
            load_padded(row_of(scan.write, token), block.rows, block.rows, write);
            load_padded(row_of(scan.read, token), block.rows, block.rows, read);
            load_padded(row_of(scan.x, token) + block.first_column, block.columns, block.width, values);
            load_padded(row_of(scan.step_size, token) + block.first_column, block.columns, block.width, steps);
            for (int i = 0; i < 2; ++i) {
                Floats<lanes> step, x, skip, sum{};
                Vector<lanes>::load(steps + i * lanes, step);
                Vector<lanes>::load(values + i * lanes, x);
                Vector<lanes>::load(skips + i * lanes, skip);
                const Floats<lanes> u = step * x;
                for (std::int64_t r = 0; r < block.rows; ++r) {
                    const std::int64_t at = (2 * r + i) * lanes;
                    Floats<lanes> s, rate, decay;
                    Vector<lanes>::load(from + at, s);
                    Vector<lanes>::load(rates + at, rate);
                    Vector<lanes>::exp(step * rate, decay);
                    s = decay * s + write[r] * u;
                    Vector<lanes>::store(s, to + at);
                    sum += read[r] * s;
                }
                Vector<lanes>::store(sum + skip * x, sums + i * lanes);
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
    const bool channels = has_channels(scan);
    const std::int64_t all = channels ? scan.heads : scan.size, width = block_columns<lanes>;
    const std::int64_t blocks = (all + width - 1) / width, first = index % blocks * width;
    const std::int64_t columns = all - first < width ? all - first : width;
    const StateBlock block{index / blocks, first, columns, scan.rows, width};
    float* scratch = memory + blocks_needed(work.places, scan.initial_count) * block.size();
    float* write = scratch + block.size();
    if (channels) {
        ChannelBody<Element, lanes> body{scan, block, scratch, write, write + block.rows, {}};
        body.load_rates();
        walk(work.nodes, work.places, scan.initial, scan.initial_count, scan.states, block, memory, body);
    } else {
        HeadBody<Element, lanes> body{scan, block, scratch, write, write + block.rows};
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
    const std::int64_t width = pick(block_columns<4>, block_columns<8>, block_columns<16>, instructions);
    TreeScan<Element> scan = given;
    const bool channels = has_channels(scan);
    if (channels) {
        scan.initial = as_columns(scan.initial);
        scan.states = as_columns(scan.states);
    }
    const StatePlaces places = places_of(nodes);
    const ScanWork<Element> work{scan, nodes, places};
    const std::int64_t blocks =
        channels ? (scan.heads + width - 1) / width : scan.heads * ((scan.size + width - 1) / width);
    const std::int64_t numbers = blocks_needed(places, scan.initial_count) * width + row_arrays(width);
    const ThreadMemory memory(threads, numbers * scan.rows * std::int64_t(sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        float* own = memory.own<float>();
#pragma omp for schedule(static)
        for (std::int64_t index = 0; index < blocks; ++index) run(work, index, own);
    }
}

template void tree_scan(const TreeScan<float>&, const PackNodes&, int, InstructionSet);
template void tree_scan(const TreeScan<bfloat16>&, const PackNodes&, int, InstructionSet);

}  // namespace instsel
