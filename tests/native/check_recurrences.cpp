// Convolution, delta rule and scan along small trees, against double precision token by token.

#include <array>

#include "checks.h"
#include "recurrence/tree_convolution.h"
#include "recurrence/tree_delta_rule.h"
#include "recurrence/tree_scan.h"

namespace instsel {
namespace {

// Two roots, one of them an initial state's, an empty node, and children of one token and of more than a chunk.
const std::vector<std::int64_t> offsets{0, 11, 28, 28, 29, 46, 49};
const std::vector<std::int64_t> parents{-1, -2, 0, 2, 1, 1};
constexpr std::int64_t tokens = 49;

PackNodes nodes() { return {offsets.data(), parents.data(), 6, {-1, 0, 1, -1, 2, -1}}; }

using State = std::vector<double>;

// Runs `step(token, state)` along every path; the states that nodes end with.
template <class Step>
std::vector<State> along_paths(const State& initial, const Step& step) {
    std::vector<State> ends;
    for (std::size_t n = 0; n < parents.size(); ++n) {
        State state = parents[n] >= 0 ? ends[std::size_t(parents[n])]
                      : parents[n] == -1 ? State(initial.size(), 0.0) : initial;
        for (std::int64_t t = offsets[n]; t < offsets[n + 1]; ++t) step(t, state);
        ends.push_back(state);
    }
    return ends;
}

template <class Element>
void check(const std::vector<Element>& got, const std::vector<double>& want, const std::vector<float>& states,
           const std::vector<State>& ends, const std::string& what) {
    const double tolerance = sizeof(Element) == 2 ? 0.02 : 2e-5;
    for (std::size_t i = 0; i < want.size(); ++i) expect(close(to_float(got[i]), want[i], tolerance), what);
    const std::array<std::size_t, 3> kept{1, 2, 4};
    for (std::size_t k = 0; k < kept.size(); ++k) {
        for (std::size_t i = 0; i < ends[kept[k]].size(); ++i) {
            expect(close(states[k * ends[kept[k]].size() + i], ends[kept[k]][i], 2e-5), what + " states");
        }
    }
}

// One head's numbers of a state [heads][rows][columns].
StateArray array_of(std::vector<float>& states, std::int64_t heads, std::int64_t rows, std::int64_t columns) {
    return {states.data(), heads * rows * columns, rows * columns, columns, 1};
}

std::vector<float> negative(std::int64_t count) {
    auto values = random_matrix<float>(count, 1, 0.7f);
    for (float& value : values) value = -std::fabs(value);
    return values;
}

template <class Element>
void check_delta_rule(std::int64_t rows, std::int64_t columns, bool per_row, int threads, InstructionSet instructions) {
    const std::int64_t heads = 4, key_heads = 2, decays = per_row ? heads * rows : heads;
    const auto query = random_matrix<Element>(tokens, key_heads * rows, 1.0f);
    const auto key = random_matrix<Element>(tokens, key_heads * rows, 1.0f);
    const auto value = random_matrix<Element>(tokens, heads * columns, 1.0f);
    const auto decay = negative(tokens * decays), beta = random_matrix<float>(tokens, heads, 0.3f);
    auto initial = random_matrix<float>(heads * rows, columns, 1.0f);
    std::vector<float> states(std::size_t(3 * heads * rows * columns));
    std::vector<Element> out(std::size_t(tokens * heads * columns));
    const auto view = [](const auto& values, std::int64_t width) {
        return Matrix<std::decay_t<decltype(values[0])>>{values.data(), tokens, width, width};
    };
    const DeltaRule<Element> rule{
        view(query, key_heads * rows), view(key, key_heads * rows), view(value, heads * columns), view(decay, decays),
        view(beta, heads), key_heads, heads, rows, columns, 0.5f, true, array_of(initial, heads, rows, columns), 1,
        array_of(states, heads, rows, columns), out.data()};
    tree_delta_rule(rule, nodes(), threads, instructions);
    std::vector<double> want(out.size());
    const auto ends = along_paths({initial.begin(), initial.end()}, [&](std::int64_t t, State& state) {
        for (std::int64_t h = 0; h < heads; ++h) {
            std::vector<double> k, q;
            double of_key = 1e-6, of_query = 1e-6;
            for (std::int64_t r = 0; r < rows; ++r) {
                const std::size_t at = std::size_t(t * key_heads * rows + h / 2 * rows + r);
                k.push_back(to_float(key[at]));
                q.push_back(to_float(query[at]));
                of_key += k.back() * k.back();
                of_query += q.back() * q.back();
            }
            for (std::int64_t c = 0; c < columns; ++c) {
                double seen = 0.0, read = 0.0;
                const auto place = [&](std::int64_t r) { return std::size_t((h * rows + r) * columns + c); };
                for (std::int64_t r = 0; r < rows; ++r) {
                    state[place(r)] *= std::exp(double(decay[std::size_t(t * decays + (per_row ? h * rows + r : h))]));
                    seen += k[std::size_t(r)] / std::sqrt(of_key) * state[place(r)];
                }
                const std::size_t at = std::size_t((t * heads + h) * columns + c);
                const double update = double(beta[std::size_t(t * heads + h)]) * (double(to_float(value[at])) - seen);
                for (std::int64_t r = 0; r < rows; ++r) {
                    state[place(r)] += k[std::size_t(r)] / std::sqrt(of_key) * update;
                    read += 0.5 * q[std::size_t(r)] / std::sqrt(of_query) * state[place(r)];
                }
                want[at] = read;
            }
        }
    });
    check(out, want, states, ends, std::string("delta rule by ") + name_of(instructions));
}

// `size` columns of a head; heads of one channel with a rate a row are taken together.
template <class Element>
void check_scan(std::int64_t heads, std::int64_t rows, std::int64_t size, bool per_row, int threads,
                InstructionSet instructions) {
    const std::int64_t rates = per_row ? rows : 1;
    const auto x = random_matrix<Element>(tokens, heads * size, 1.0f);
    const auto write = random_matrix<Element>(tokens, rows, 0.5f), read = random_matrix<Element>(tokens, rows, 0.5f);
    auto step = negative(tokens * heads);
    for (float& value : step) value = -value;
    const auto rate = negative(heads * rates), skip = random_matrix<float>(heads, 1, 1.0f);
    auto initial = random_matrix<float>(heads * rows, size, 1.0f);
    std::vector<float> states(std::size_t(3 * heads * rows * size)), out(std::size_t(tokens * heads * size));
    const TreeScan<Element> scan{
        {x.data(), tokens, heads * size, heads * size}, {step.data(), tokens, heads, heads},
        {rate.data(), heads, rates, rates}, {write.data(), tokens, rows, rows}, {read.data(), tokens, rows, rows},
        skip.data(), 1, heads, rows, size, array_of(initial, heads, rows, size), 1,
        array_of(states, heads, rows, size), out.data()};
    tree_scan(scan, nodes(), threads, instructions);
    std::vector<double> want(out.size());
    const auto ends = along_paths({initial.begin(), initial.end()}, [&](std::int64_t t, State& state) {
        for (std::int64_t h = 0; h < heads; ++h) {
            const double width = double(step[std::size_t(t * heads + h)]);
            for (std::int64_t c = 0; c < size; ++c) {
                const std::size_t at = std::size_t((t * heads + h) * size + c);
                const double own = double(to_float(x[at]));
                want[at] = double(skip[std::size_t(h)]) * own;
                for (std::int64_t r = 0; r < rows; ++r) {
                    double& number = state[std::size_t((h * rows + r) * size + c)];
                    number = std::exp(width * double(rate[std::size_t(h * rates + (per_row ? r : 0))])) * number +
                             double(to_float(write[std::size_t(t * rows + r)])) * width * own;
                    want[at] += double(to_float(read[std::size_t(t * rows + r)])) * number;
                }
            }
        }
    });
    check(out, want, states, ends, std::string("scan by ") + name_of(instructions));
}

template <class Element>
void check_convolution(std::int64_t channels, std::int64_t width, int threads, InstructionSet instructions) {
    const auto x = random_matrix<Element>(tokens, channels, 1.0f);
    const auto initial = random_matrix<Element>(width - 1, channels, 1.0f);
    const auto taps = random_matrix<float>(width, channels, 1.0f), bias = random_matrix<float>(1, channels, 1.0f);
    std::vector<Element> ends(std::size_t(3 * (width - 1) * channels)), out(std::size_t(tokens * channels));
    const TreeConvolution<Element> convolution{{x.data(), tokens, channels, channels}, taps.data(), bias.data(), width,
                                               false, initial.data(), ends.data(), out.data()};
    tree_convolution(convolution, nodes(), threads, instructions);
    State begun;
    for (const Element& one : initial) begun.push_back(double(to_float(one)));
    std::vector<double> want(out.size());
    const auto last = along_paths(begun, [&](std::int64_t t, State& inputs) {
        for (std::int64_t c = 0; c < channels; ++c) inputs.push_back(double(to_float(x[std::size_t(t * channels + c)])));
        for (std::int64_t c = 0; c < channels; ++c) {
            double sum = double(bias[std::size_t(c)]);
            for (std::int64_t k = 0; k < width; ++k) {
                sum += double(taps[std::size_t(k * channels + c)]) * inputs[std::size_t(k * channels + c)];
            }
            want[std::size_t(t * channels + c)] = sum;
        }
        inputs.erase(inputs.begin(), inputs.begin() + channels);
    });
    std::vector<float> kept;
    for (const Element& one : ends) kept.push_back(to_float(one));
    check(out, want, kept, last, std::string("convolution by ") + name_of(instructions));
}

template <class Element>
void check_element(InstructionSet instructions) {
    for (const int threads : {1, 2, 9}) {
        check_delta_rule<Element>(24, 21, false, threads, instructions);
        check_delta_rule<Element>(7, 100, true, threads, instructions);
        check_delta_rule<Element>(32, 96, false, threads, instructions);
        check_scan<Element>(3, 20, 13, false, threads, instructions);
        check_scan<Element>(2, 16, 70, true, threads, instructions);
        check_scan<Element>(45, 16, 1, true, threads, instructions);
        check_convolution<Element>(37, 4, threads, instructions);
        check_convolution<Element>(520, 3, threads, instructions);
    }
}

}  // namespace

void check_recurrences() {
    for (const InstructionSet instructions : instruction_sets_here()) {
        check_element<float>(instructions);
        check_element<bfloat16>(instructions);
    }
}

}  // namespace instsel
