#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <type_traits>
#include <vector>

#include "binding/arrays.h"
#include "binding/attention_binding.h"
#include "binding/experts_binding.h"
#include "binding/layer_binding.h"
#include "head/bfloat16_linear_logsumexp.h"
#include "head/float_linear_logsumexp.h"
#include "recurrence/recurrence_binding.h"
#include "simd/threads.h"

namespace instsel {
namespace {

// One chunk of logits, columns first_column.. of the vocabulary, into the states of its rows.
void bind_accumulate(const py::array& chunk, std::int64_t first_column, const py::object& bias, float scale,
                     float softcap, const py::array& max, const py::array& sum, const py::object& argmax, int threads,
                     const std::string& instruction_set) {
    const InstructionSet instructions = instructions_of(instruction_set, threads);
    with_element(element_type("chunk", chunk), [&](auto element) {
        const auto matrix = matrix_of<decltype(element)>("chunk", chunk);
        const HeadTransform head = head_of(bias, scale, softcap, matrix.columns);
        const RowStates states = states_of(max, sum, argmax, matrix.rows);
        if (first_column < 0 || first_column > std::numeric_limits<std::int64_t>::max() - matrix.columns) {
            refuse("first_column", "a position in a vocabulary");
        }
        check_apart({{"max", max}, {"sum", sum}, {"argmax", argmax}}, {{"chunk", chunk}, {"bias", bias}});
        py::gil_scoped_release release;
        accumulate<decltype(element)>({matrix.data, matrix.rows, matrix.columns, matrix.row_stride, first_column},
                                      head, nullptr, states, threads, instructions);
    });
}

// All of row_logprob: fills logprobs [P], logsumexps [T] and, if given, argmax [T].
void bind_row_logprob(const py::array& logits, const py::array& rows, const py::array& targets,
                      const py::object& mask, const py::object& bias, float scale, float softcap,
                      const py::array& logprobs, const py::array& logsumexps, const py::object& argmax, int threads,
                      const std::string& instruction_set) {
    const InstructionSet instructions = instructions_of(instruction_set, threads);
    with_element(element_type("logits", logits), [&](auto element) {
        const auto matrix = matrix_of<decltype(element)>("logits", logits);
        const HeadTransform head = head_of(bias, scale, softcap, matrix.columns);
        const Pairs pairs = pairs_of(rows, targets, mask, matrix.rows, matrix.columns);
        float* out = vector_of<float>("logprobs", logprobs, pairs.count, true);
        float* row_out = vector_of<float>("logsumexps", logsumexps, matrix.rows, true);
        std::int64_t* best = optional_argmax(argmax, matrix.rows);
        check_apart({{"logprobs", logprobs}, {"logsumexps", logsumexps}, {"argmax", argmax}},
                    {{"logits", logits}, {"rows", rows}, {"targets", targets}, {"mask", mask}, {"bias", bias}});
        std::vector<float> largest(matrix.rows, -std::numeric_limits<float>::infinity());
        std::vector<double> sum(matrix.rows, 0.0);
        const RowStates states{largest.data(), sum.data(), best};
        py::gil_scoped_release release;
        if (best != nullptr) std::fill(best, best + matrix.rows, -1);
        std::vector<std::uint8_t> needed(matrix.rows);
        mark_needed_rows(pairs, matrix.rows, needed.data());
        accumulate<decltype(element)>({matrix.data, matrix.rows, matrix.columns, matrix.row_stride, 0}, head,
                                      needed.data(), states, threads, instructions);
        pair_logprobs_from_logits(matrix, pairs, head, states, out);
        finish_rows(states, matrix.rows, needed.data(), row_out);
    });
}

// The states of all rows of hidden @ weight.T: bfloat16 by its own products where the instruction set has them.
void bind_linear_logsumexp(const py::array& hidden, const py::array& weight, const py::object& bias, float scale,
                           float softcap, const py::array& max, const py::array& sum, const py::object& argmax,
                           int threads, const std::string& instruction_set) {
    const InstructionSet instructions = instructions_of(instruction_set, threads);
    if (element_type("hidden", hidden) != element_type("weight", weight)) refuse("weight", "the type of hidden");
    with_element(element_type("hidden", hidden), [&](auto element) {
        using Element = decltype(element);
        const auto left = matrix_of<Element>("hidden", hidden);
        const auto right = matrix_of<Element>("weight", weight);
        if (left.columns != right.columns) refuse("weight", "as many columns as hidden");
        if (left.columns == 0) refuse("hidden", "at least one column");
        if (right.rows > std::numeric_limits<std::int32_t>::max()) refuse("weight", "fewer than 2^31 rows");
        const HeadTransform head = head_of(bias, scale, softcap, right.rows);
        const RowStates states = states_of(max, sum, argmax, left.rows);
        check_apart({{"max", max}, {"sum", sum}, {"argmax", argmax}},
                    {{"hidden", hidden}, {"weight", weight}, {"bias", bias}});
        py::gil_scoped_release release;
        if constexpr (std::is_same<Element, bfloat16>::value) {
            if (instructions >= InstructionSet::avx512_bf16) {
                bfloat16_linear_logsumexp(left, right, head, states, threads, instructions);
                return;
            }
        }
        float_linear_logsumexp(left, right, head, states, threads, instructions);
    });
}

// The end of linear_logprob: the pairs' dot products against the rows' states.
void bind_pair_logprobs(const py::array& hidden, const py::array& weight, const py::array& rows,
                        const py::array& targets, const py::object& mask, const py::object& bias, float scale,
                        float softcap, const py::array& max, const py::array& sum, const py::object& argmax,
                        const py::array& logprobs, const py::array& logsumexps, int threads,
                        const std::string& instruction_set) {
    const InstructionSet instructions = instructions_of(instruction_set, threads);
    if (element_type("hidden", hidden) != element_type("weight", weight)) refuse("weight", "the type of hidden");
    with_element(element_type("hidden", hidden), [&](auto element) {
        const auto left = matrix_of<decltype(element)>("hidden", hidden);
        const auto right = matrix_of<decltype(element)>("weight", weight);
        if (left.columns != right.columns) refuse("weight", "as many columns as hidden");
        const HeadTransform head = head_of(bias, scale, softcap, right.rows);
        const Pairs pairs = pairs_of(rows, targets, mask, left.rows, right.rows);
        const RowStates states = states_of(max, sum, argmax, left.rows);
        float* out = vector_of<float>("logprobs", logprobs, pairs.count, true);
        float* row_out = vector_of<float>("logsumexps", logsumexps, left.rows, true);
        check_apart({{"logprobs", logprobs}, {"logsumexps", logsumexps}, {"argmax", argmax}},
                    {{"hidden", hidden}, {"weight", weight}, {"rows", rows}, {"targets", targets}, {"mask", mask},
                     {"bias", bias}, {"max", max}, {"sum", sum}});
        py::gil_scoped_release release;
        pair_logprobs_from_hidden(left, right, pairs, head, states, out, threads, instructions);
        finish_rows(states, left.rows, nullptr, row_out);
    });
}

}  // namespace
}  // namespace instsel

PYBIND11_MODULE(_native, m) {
    using namespace instsel;
    using py::arg;
    m.doc() = "C++ kernels of instsel. They take NumPy views (bfloat16 as uint16), check them and release the lock.";
    bind_experts_operations(m);
    bind_layer_operations(m);
    bind_tree_attention(m);
    bind_recurrences(m);
    m.def("choose_instruction_set", [](const std::string& name) { return name_of(choose_instruction_set(name)); },
          arg("name"));
    m.def("set_openmp_threads", [](int threads) { return check_threads(threads), set_openmp_threads(threads); },
          arg("threads"));
    m.def("form_team", [](int threads) { return check_threads(threads), form_team(threads); }, arg("threads"));
    m.def("accumulate", &bind_accumulate, arg("chunk"), arg("first_column"), arg("bias").none(true), arg("scale"),
          arg("softcap"), arg("max"), arg("sum"), arg("argmax").none(true), arg("threads"), arg("instruction_set"));
    m.def("linear_logsumexp", &bind_linear_logsumexp, arg("hidden"), arg("weight"), arg("bias").none(true),
          arg("scale"), arg("softcap"), arg("max"), arg("sum"), arg("argmax").none(true), arg("threads"),
          arg("instruction_set"));
    m.def("row_logprob", &bind_row_logprob, arg("logits"), arg("rows"), arg("targets"), arg("mask").none(true),
          arg("bias").none(true), arg("scale"), arg("softcap"), arg("logprobs"), arg("logsumexps"),
          arg("argmax").none(true), arg("threads"), arg("instruction_set"));
    m.def("pair_logprobs", &bind_pair_logprobs, arg("hidden"), arg("weight"), arg("rows"), arg("targets"),
          arg("mask").none(true), arg("bias").none(true), arg("scale"), arg("softcap"), arg("max"), arg("sum"),
          arg("argmax").none(true), arg("logprobs"), arg("logsumexps"), arg("threads"), arg("instruction_set"));
}
