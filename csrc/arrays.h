// Checks of the NumPy buffers that Python hands over: type, shape and strides, before anything is read.
#pragma once

#include <pybind11/numpy.h>

#include <stdexcept>
#include <string>

#include "pair_logprobs.h"

namespace instsel {

namespace py = pybind11;

[[noreturn]] inline void refuse(const std::string& name, const std::string& expected) {
    throw std::invalid_argument(name + ": expected " + expected);
}

// bfloat16 has no NumPy type and arrives as uint16.
enum class ElementType { float32, float16, bfloat16 };

inline ElementType element_type(const std::string& name, const py::array& array) {
    const py::dtype type = array.dtype();
    if (type.kind() == 'f' && type.itemsize() == 4) return ElementType::float32;
    if (type.kind() == 'f' && type.itemsize() == 2) return ElementType::float16;
    if (type.kind() == 'u' && type.itemsize() == 2) return ElementType::bfloat16;
    refuse(name, "float32, float16 or uint16 (the bits of bfloat16)");
}

// A matrix with contiguous rows.
template <class Element>
Matrix<Element> matrix_of(const std::string& name, const py::array& array) {
    if (array.ndim() != 2) refuse(name, "2 dimensions, got " + std::to_string(array.ndim()));
    const auto size = py::ssize_t(sizeof(Element));
    if (array.itemsize() != size) refuse(name, "elements of " + std::to_string(size) + " bytes");
    if (array.size() == 0) return {nullptr, array.shape(0), array.shape(1), array.shape(1)};  // strides mean nothing
    if (array.shape(1) > 1 && array.strides(1) != size) refuse(name, "contiguous rows");
    if (array.strides(0) < 0 || array.strides(0) % size != 0) refuse(name, "a row stride of whole elements");
    return {static_cast<const Element*>(array.data()), array.shape(0), array.shape(1), array.strides(0) / size};
}

// A contiguous vector of exactly this type; `length` -1 takes any.
template <class Value>
Value* vector_of(const std::string& name, const py::array& array, py::ssize_t length, bool writeable) {
    if (!py::dtype::of<Value>().equal(array.dtype())) refuse(name, "another element type");
    if (array.ndim() != 1) refuse(name, "1 dimension, got " + std::to_string(array.ndim()));
    if (length >= 0 && array.shape(0) != length) {
        refuse(name, "length " + std::to_string(length) + ", got " + std::to_string(array.shape(0)));
    }
    if (array.shape(0) > 1 && array.strides(0) != py::ssize_t(sizeof(Value))) refuse(name, "contiguous elements");
    if (writeable && !array.writeable()) refuse(name, "a writeable array");
    return static_cast<Value*>(const_cast<void*>(array.data()));
}

template <class Value>
const Value* optional_vector(const std::string& name, const py::object& object, py::ssize_t length) {
    return object.is_none() ? nullptr : vector_of<Value>(name, py::cast<py::array>(object), length, false);
}

inline Pairs pairs_of(const py::array& rows, const py::array& targets, const py::object& mask, std::int64_t num_rows,
                      std::int64_t vocabulary) {
    const py::ssize_t count = rows.ndim() == 1 ? rows.shape(0) : -1;
    const Pairs pairs{vector_of<std::int64_t>("rows", rows, -1, false),
                      vector_of<std::int64_t>("targets", targets, count, false),
                      reinterpret_cast<const std::uint8_t*>(optional_vector<bool>("mask", mask, count)), count};
    const std::int64_t bad = first_out_of_range(pairs, num_rows, vocabulary);
    if (bad >= 0) refuse("pairs", "rows and targets in range, got one outside at position " + std::to_string(bad));
    return pairs;
}

inline HeadTransform head_of(const py::object& bias, float scale, float softcap, std::int64_t vocabulary) {
    return {optional_vector<float>("bias", bias, vocabulary), scale, softcap};
}

inline RowStates states_of(const py::array& max, const py::array& sum, const py::object& argmax,
                           std::int64_t num_rows) {
    std::int64_t* best = nullptr;
    if (!argmax.is_none()) best = vector_of<std::int64_t>("argmax", py::cast<py::array>(argmax), num_rows, true);
    return {vector_of<float>("max", max, num_rows, true), vector_of<double>("sum", sum, num_rows, true), best};
}

// Calls `run` with a value of the element's C++ type.
template <class Run>
void with_element(ElementType type, Run&& run) {
    if (type == ElementType::float32) run(float());
    if (type == ElementType::float16) run(float16());
    if (type == ElementType::bfloat16) run(bfloat16());
}

}  // namespace instsel
