// Checks of what Python hands over, before anything is read or written: the type, shape, strides, alignment and overlap
// of NumPy buffers, and the number of threads.
#pragma once

#include <pybind11/numpy.h>

#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "head/pair_logprobs.h"

namespace instsel {

namespace py = pybind11;

[[noreturn]] inline void refuse(const std::string& name, const std::string& expected) {
    throw std::invalid_argument(name + ": expected " + expected);
}

// OpenMP asks for a positive number, and ends the process where it cannot start that many.
inline void check_threads(int threads) {
    if (threads < 1 || threads > 4096) refuse("threads", "1 to 4096, got " + std::to_string(threads));
}

// The instruction set that is asked for by name, for a call that is to run on so many threads.
inline InstructionSet instructions_of(const std::string& name, int threads) {
    const InstructionSet instructions = choose_instruction_set(name);
    check_threads(threads);
    return instructions;
}

// An argument that may be None, once it is not.
inline py::array given_array(const std::string& name, const py::object& object) {
    if (!py::isinstance<py::array>(object)) throw py::type_error(name + ": expected a NumPy array or None");
    return py::reinterpret_borrow<py::array>(object);
}

// Elements at addresses that their type may be read from; all types here are as large as their alignment.
inline void check_alignment(const std::string& name, const py::array& array) {
    if (array.size() > 0 && reinterpret_cast<std::uintptr_t>(array.data()) % std::uintptr_t(array.itemsize()) != 0) {
        refuse(name, "aligned elements");
    }
}

// The addresses from the first byte of an array's elements to behind the last.
inline std::pair<std::uintptr_t, std::uintptr_t> addresses_of(const py::array& array) {
    std::uintptr_t first = reinterpret_cast<std::uintptr_t>(array.data());
    std::uintptr_t last = first + std::uintptr_t(array.itemsize());
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
        const std::uintptr_t reach = std::uintptr_t(array.shape(axis) - 1) * std::uintptr_t(array.strides(axis));
        (array.strides(axis) < 0 ? first : last) += reach;
    }
    return {first, last};
}

using NamedArray = std::pair<const char*, py::handle>;  // of an array or None

// What is written shares no memory with anything else: indices that were checked must not change before they are used.
inline void check_apart(std::initializer_list<NamedArray> written, std::initializer_list<NamedArray> read) {
    const auto overlap = [](const py::handle& one, const py::handle& other) {
        if (one.is_none() || other.is_none()) return false;
        const auto a = py::reinterpret_borrow<py::array>(one), b = py::reinterpret_borrow<py::array>(other);
        if (a.size() == 0 || b.size() == 0) return false;
        const auto [a_first, a_last] = addresses_of(a);
        const auto [b_first, b_last] = addresses_of(b);
        return a_first < b_last && b_first < a_last;
    };
    const std::string apart_from = "memory apart from ";
    for (auto one = written.begin(); one != written.end(); ++one) {
        for (auto other = one + 1; other != written.end(); ++other) {
            if (overlap(one->second, other->second)) refuse(one->first, apart_from + other->first);
        }
        for (const NamedArray& other : read) {
            if (overlap(one->second, other.second)) refuse(one->first, apart_from + other.first);
        }
    }
}

// bfloat16 has no NumPy type and arrives as uint16.
enum class ElementType { float32, float16, bfloat16 };

inline ElementType element_type(const std::string& name, const py::array& array) {
    const py::dtype type = array.dtype();
    if (type.byteorder() == '<' || type.byteorder() == '>') refuse(name, "this processor's byte order");
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
    check_alignment(name, array);
    if (array.shape(1) > 1 && array.strides(1) != size) refuse(name, "contiguous rows");
    // The stride of a single row may be any number.
    const py::ssize_t stride = array.shape(0) > 1 ? array.strides(0) : array.shape(1) * size;
    if (stride < 0 || stride % size != 0) refuse(name, "a row stride of whole elements");
    return {static_cast<const Element*>(array.data()), array.shape(0), array.shape(1), stride / size};
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
    check_alignment(name, array);
    if (writeable && !array.writeable()) refuse(name, "a writeable array");
    return static_cast<Value*>(const_cast<void*>(array.data()));
}

inline std::int64_t* optional_argmax(const py::object& argmax, std::int64_t num_rows) {
    if (argmax.is_none()) return nullptr;
    return vector_of<std::int64_t>("argmax", given_array("argmax", argmax), num_rows, true);
}

template <class Value>
const Value* optional_vector(const std::string& name, const py::object& object, py::ssize_t length) {
    return object.is_none() ? nullptr : vector_of<Value>(name, given_array(name, object), length, false);
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
    return {vector_of<float>("max", max, num_rows, true), vector_of<double>("sum", sum, num_rows, true),
            optional_argmax(argmax, num_rows)};
}

// Calls `run` with a value of the element's C++ type.
template <class Run>
void with_element(ElementType type, Run&& run) {
    if (type == ElementType::float32) run(float());
    if (type == ElementType::float16) run(float16());
    if (type == ElementType::bfloat16) run(bfloat16());
}

}  // namespace instsel
