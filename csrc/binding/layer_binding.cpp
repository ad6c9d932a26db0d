#include "binding/layer_binding.h"

#include "binding/arrays.h"
#include "layer/bfloat16_linear.h"
#include "layer/layer_operations.h"

namespace instsel {
namespace {

template <class Element>
constexpr ElementType element_type_of = sizeof(Element) == 4 ? ElementType::float32 : ElementType::bfloat16;

// A contiguous block of elements with the given number of dimensions.
template <class Element>
Element* block_of(const std::string& name, const py::array& array, py::ssize_t dimensions, bool writeable) {
    if (array.ndim() != dimensions) refuse(name, std::to_string(dimensions) + " dimensions");
    if (element_type(name, array) != element_type_of<Element>) {
        refuse(name, name == "cos" || name == "sin" ? "float32" : "the element type of x");
    }
    check_alignment(name, array);
    if ((array.flags() & py::array::c_style) == 0) refuse(name, "a contiguous array");
    if (writeable && !array.writeable()) refuse(name, "a writeable array");
    return static_cast<Element*>(const_cast<void*>(array.data()));
}

template <class Run>
void with_layer_element(const py::array& array, Run&& run) {
    const ElementType type = element_type("x", array);
    if (type == ElementType::float32) return run(float());
    if (type == ElementType::bfloat16) return run(bfloat16());
    refuse("x", "float32 or uint16 (the bits of bfloat16)");
}

void same_shape(const std::string& name, const py::array& array, const py::array& like) {
    for (py::ssize_t i = 0; i < like.ndim(); ++i) {
        if (array.ndim() != like.ndim() || array.shape(i) != like.shape(i)) refuse(name, "the shape of x");
    }
}

void bind_layer_norm(const py::array& x, const py::array& weight, const py::object& bias, float weight_offset,
                     float epsilon, bool centred, bool add, const py::array& out, int threads,
                     const std::string& instruction_set) {
    const InstructionSet instructions = instructions_of(instruction_set, threads);
    with_layer_element(x, [&](auto element) {
        using Element = decltype(element);
        const Element* data = block_of<Element>("x", x, 2, false);
        same_shape("out", out, x);
        if (weight.ndim() != 1 || weight.shape(0) != x.shape(1)) refuse("weight", "one entry per column of x");
        const Element* factors = block_of<Element>("weight", weight, 1, false);
        const Element* addends = nullptr;
        if (!bias.is_none()) {
            const auto array = given_array("bias", bias);
            addends = block_of<Element>("bias", array, 1, false);
            if (array.shape(0) != x.shape(1)) refuse("bias", "one entry per column of x");
        }
        Element* result = block_of<Element>("out", out, 2, true);
        check_apart({{"out", out}}, {{"x", x}, {"weight", weight}, {"bias", bias}});
        if (x.size() == 0) return;  // however many rows of nothing
        const std::int64_t rows = x.shape(0), columns = x.shape(1);
        py::gil_scoped_release release;
        layer_norm(data, factors, addends, {weight_offset, epsilon, centred, add}, rows, columns, result, threads,
                   instructions);
    });
}

Activation activation_of(const std::string& name) {
    if (name != "silu" && name != "gelu_tanh") refuse("activation", "\"silu\" or \"gelu_tanh\"");
    return name == "silu" ? Activation::silu : Activation::gelu_tanh;
}

void bind_gate(const py::array& x, const py::array& up, const std::string& activation, int threads,
               const std::string& instruction_set) {
    const InstructionSet instructions = instructions_of(instruction_set, threads);
    const Activation function = activation_of(activation);
    with_layer_element(x, [&](auto element) {
        using Element = decltype(element);
        same_shape("up", up, x);
        Element* gate = block_of<Element>("x", x, 2, true);
        const Element* factor = block_of<Element>("up", up, 2, false);
        check_apart({{"x", x}}, {{"up", up}});
        const std::int64_t count = x.size();
        py::gil_scoped_release release;
        gate_in_place(gate, factor, count, function, threads, instructions);
    });
}

void bind_rotate(const py::array& x, const py::array& cos, const py::array& sin, bool interleaved, int threads,
                 const std::string& instruction_set) {
    const InstructionSet instructions = instructions_of(instruction_set, threads);
    with_layer_element(x, [&](auto element) {
        using Element = decltype(element);
        Element* data = block_of<Element>("x", x, 3, true);
        for (const auto* table : {&cos, &sin}) {
            if (table->ndim() != 2 || table->shape(0) != x.shape(0) || table->shape(1) != cos.shape(1)) {
                refuse("cos and sin", "shape [rows, turned numbers of a head]");
            }
        }
        if (cos.shape(1) > x.shape(2) || cos.shape(1) % 2 != 0) refuse("cos and sin", "an even part of a head of x");
        const float* cosines = block_of<float>("cos", cos, 2, false);
        const float* sines = block_of<float>("sin", sin, 2, false);
        check_apart({{"x", x}}, {{"cos", cos}, {"sin", sin}});
        if (x.size() == 0 || cos.size() == 0) return;
        const std::int64_t rows = x.shape(0), heads = x.shape(1), size = x.shape(2), turned = cos.shape(1);
        py::gil_scoped_release release;
        rotate_in_place(data, cosines, sines, rows, heads, size, turned, interleaved, threads, instructions);
    });
}

// The bits of bfloat16 as a matrix with contiguous rows.
Matrix<bfloat16> bfloat16_matrix(const std::string& name, const py::array& array) {
    if (element_type(name, array) != ElementType::bfloat16) refuse(name, "uint16 (the bits of bfloat16)");
    return matrix_of<bfloat16>(name, array);
}

// What a product of x [T, K] with weights [N, K] is written to: [T, N] without gaps.
bfloat16* product_of(const Matrix<bfloat16>& x, const Matrix<bfloat16>& weight, const py::array& out, int threads) {
    check_threads(threads);
    if (x.columns == 0 || x.columns % 32 != 0) refuse("x", "a multiple of 32 columns, not 0");
    if (weight.columns != x.columns) refuse("weight", "as many columns as x");
    if (out.ndim() != 2 || out.shape(0) != x.rows || out.shape(1) != weight.rows) {
        refuse("out", "shape [rows, outputs]");
    }
    return block_of<bfloat16>("out", out, 2, true);
}

void bind_linear(const py::array& x, const py::array& weight, const py::object& bias, bool add,
                 const py::array& out, int threads, const std::string& instruction_set) {
    const InstructionSet instructions = choose_instruction_set(instruction_set);
    const Matrix<bfloat16> rows = bfloat16_matrix("x", x), weights = bfloat16_matrix("weight", weight);
    bfloat16* result = product_of(rows, weights, out, threads);
    const bfloat16* addends = nullptr;
    if (!bias.is_none()) {
        const auto array = given_array("bias", bias);
        addends = block_of<bfloat16>("bias", array, 1, false);
        if (array.shape(0) != weights.rows) refuse("bias", "one entry per row of weight");
    }
    check_apart({{"out", out}}, {{"x", x}, {"weight", weight}, {"bias", bias}});
    if (out.size() == 0) return;
    py::gil_scoped_release release;
    bfloat16_linear(rows, weights, addends, add, result, threads, instructions);
}

void bind_gated_linear(const py::array& x, const py::array& gate, const py::array& up, const std::string& activation,
                       const py::array& out, int threads, const std::string& instruction_set) {
    const InstructionSet instructions = choose_instruction_set(instruction_set);
    const Activation function = activation_of(activation);
    const Matrix<bfloat16> rows = bfloat16_matrix("x", x), gates = bfloat16_matrix("gate", gate);
    const Matrix<bfloat16> ups = bfloat16_matrix("up", up);
    bfloat16* result = product_of(rows, gates, out, threads);
    if (ups.rows != gates.rows || ups.columns != gates.columns) refuse("up", "the shape of gate");
    check_apart({{"out", out}}, {{"x", x}, {"gate", gate}, {"up", up}});
    if (out.size() == 0) return;
    py::gil_scoped_release release;
    bfloat16_gated_linear(rows, gates, ups, function, result, threads, instructions);
}

}  // namespace

void bind_layer_operations(py::module_& module) {
    using py::arg;
    module.def("layer_norm", &bind_layer_norm, arg("x"), arg("weight"), arg("bias").none(true), arg("weight_offset"),
               arg("epsilon"), arg("centred").noconvert(), arg("add").noconvert(), arg("out"), arg("threads"),
               arg("instruction_set"));
    module.def("gate_in_place", &bind_gate, arg("x"), arg("up"), arg("activation"), arg("threads"),
               arg("instruction_set"));
    module.def("bfloat16_linear", &bind_linear, arg("x"), arg("weight"), arg("bias").none(true), arg("add").noconvert(),
               arg("out"), arg("threads"), arg("instruction_set"));
    module.def("bfloat16_gated_linear", &bind_gated_linear, arg("x"), arg("gate"), arg("up"), arg("activation"),
               arg("out"), arg("threads"), arg("instruction_set"));
    module.def("rotate_in_place", &bind_rotate, arg("x"), arg("cos"), arg("sin"), arg("interleaved").noconvert(),
               arg("threads"), arg("instruction_set"));
}

}  // namespace instsel
