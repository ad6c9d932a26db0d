#include "binding/experts_binding.h"

#include "binding/arrays.h"
#include "layer/bfloat16_experts.h"

namespace instsel {
namespace {

// Strides in elements of an array of bfloat16; not negative.
void check_elements(const std::string& name, const py::array& array, py::ssize_t dimensions) {
    if (array.ndim() != dimensions) refuse(name, std::to_string(dimensions) + " dimensions");
    if (element_type(name, array) != ElementType::bfloat16) refuse(name, "uint16 (the bits of bfloat16)");
    check_alignment(name, array);
    for (py::ssize_t axis = 0; axis < dimensions; ++axis) {
        if (array.strides(axis) < 0 || array.strides(axis) % 2 != 0) refuse(name, "strides of whole elements");
    }
}

// A weight [experts, outputs, depth] with a bias [experts, outputs], or none.
ExpertWeights expert_weights(const std::string& name, const py::array& array, const py::object& bias) {
    check_elements(name, array, 3);
    ExpertWeights found{static_cast<const bfloat16*>(array.data()), array.shape(0), array.shape(1), array.shape(2),
                        array.strides(0) / 2, array.strides(1) / 2, array.strides(2) / 2, nullptr, 0, 0};
    for (const std::int64_t size : {found.outputs, found.depth}) {
        if (size == 0 || size % 32 != 0) refuse(name, "multiples of 32 outputs and numbers, not 0");
    }
    if (found.depth_stride != 1 && found.output_stride != 1 && found.output_stride != 2) {
        refuse(name, "numbers or outputs one after another, or every other output");
    }
    if (bias.is_none()) return found;
    const auto addends = given_array(name + "_bias", bias);
    check_elements(name + "_bias", addends, 2);
    if (addends.shape(0) != found.experts || addends.shape(1) != found.outputs) {
        refuse(name + "_bias", "shape [experts, outputs]");
    }
    found.bias = static_cast<const bfloat16*>(addends.data());
    found.bias_expert_stride = addends.strides(0) / 2;
    found.bias_stride = addends.strides(1) / 2;
    return found;
}

void same_weights(const std::string& name, const ExpertWeights& weights, std::int64_t experts, std::int64_t outputs,
                  std::int64_t depth) {
    if (weights.experts != experts || weights.outputs != outputs || weights.depth != depth) {
        refuse(name, "shape [" + std::to_string(experts) + ", " + std::to_string(outputs) + ", " +
                         std::to_string(depth) + "]");
    }
}

std::int64_t bind_experts_bytes(std::int64_t rows, std::int64_t chosen, std::int64_t experts, std::int64_t hidden,
                                std::int64_t inner) {
    for (const std::int64_t size : {rows, chosen, experts, hidden, inner}) {
        if (size < 0 || size > (std::int64_t(1) << 20)) refuse("sizes", "0 to 1048576");
    }
    return experts_bytes({nullptr, nullptr, rows, chosen}, {nullptr, experts, inner, hidden, 0, 0, 0, nullptr, 0, 0});
}

void bind_experts(const py::array& x, const py::array& experts, const py::array& weights, const py::array& gate,
                  const py::object& gate_bias, const py::array& up, const py::object& up_bias, const py::array& down,
                  const py::object& down_bias, bool gelu_tanh, float alpha, float limit, float offset,
                  const py::array& memory, const py::array& out, int threads, const std::string& instruction_set) {
    const InstructionSet instructions = instructions_of(instruction_set, threads);
    if (element_type("x", x) != ElementType::bfloat16) refuse("x", "uint16 (the bits of bfloat16)");
    const Matrix<bfloat16> rows = matrix_of<bfloat16>("x", x);
    const ExpertWeights gates = expert_weights("gate", gate, gate_bias), ups = expert_weights("up", up, up_bias);
    const ExpertWeights downs = expert_weights("down", down, down_bias);
    if (gates.depth != rows.columns) refuse("gate", "as many numbers as x has columns");
    same_weights("up", ups, gates.experts, gates.outputs, gates.depth);
    same_weights("down", downs, gates.experts, gates.depth, gates.outputs);
    if (experts.ndim() != 2 || experts.shape(0) != rows.rows) refuse("experts", "shape [rows, chosen]");
    if (weights.ndim() != 2 || weights.shape(0) != rows.rows || weights.shape(1) != experts.shape(1)) {
        refuse("weights", "the shape of experts");
    }
    for (const auto& [name, array] : {std::pair("experts", experts), std::pair("weights", weights),
                                      std::pair("out", out)}) {
        check_alignment(name, array);
        if ((array.flags() & py::array::c_style) == 0) refuse(name, "a contiguous array");
    }
    if (!py::dtype::of<std::int64_t>().equal(experts.dtype())) refuse("experts", "int64");
    if (!py::dtype::of<float>().equal(weights.dtype())) refuse("weights", "float32");
    if (element_type("out", out) != ElementType::bfloat16) refuse("out", "uint16 (the bits of bfloat16)");
    if (out.ndim() != 2 || out.shape(0) != rows.rows || out.shape(1) != rows.columns || !out.writeable()) {
        refuse("out", "the shape of x, writeable");
    }
    const ChosenExperts chosen{static_cast<const std::int64_t*>(experts.data()),
                               static_cast<const float*>(weights.data()), rows.rows, experts.shape(1)};
    auto* space = vector_of<std::uint8_t>("memory", memory, -1, true);
    if (memory.shape(0) < experts_bytes(chosen, gates)) refuse("memory", "as many bytes as experts_bytes says");
    if (memory.size() > 0 && reinterpret_cast<std::uintptr_t>(space) % 64 != 0) refuse("memory", "an alignment of 64 bytes");
    check_apart({{"out", out}, {"memory", memory}},
                {{"x", x}, {"experts", experts}, {"weights", weights}, {"gate", gate}, {"gate_bias", gate_bias},
                 {"up", up}, {"up_bias", up_bias}, {"down", down}, {"down_bias", down_bias}});
    if (out.size() == 0) return;
    auto* result = static_cast<bfloat16*>(const_cast<void*>(out.data()));
    py::gil_scoped_release release;
    bfloat16_experts(rows, chosen, gates, ups, downs, {gelu_tanh, alpha, limit, offset}, space, result, threads,
                     instructions);
}

}  // namespace

void bind_experts_operations(py::module_& module) {
    using py::arg;
    module.def("experts_bytes", &bind_experts_bytes, arg("rows"), arg("chosen"), arg("experts"), arg("hidden"),
               arg("inner"));
    module.def("bfloat16_experts", &bind_experts, arg("x"), arg("experts"), arg("weights"), arg("gate"),
               arg("gate_bias").none(true), arg("up"), arg("up_bias").none(true), arg("down"),
               arg("down_bias").none(true), arg("gelu_tanh").noconvert(), arg("alpha"), arg("limit"), arg("offset"),
               arg("memory"), arg("out"), arg("threads"), arg("instruction_set"));
}

}  // namespace instsel
