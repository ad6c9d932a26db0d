// The binding of a mixture's experts.
#pragma once

#include <pybind11/pybind11.h>

namespace instsel {

void bind_experts_operations(pybind11::module_& module);

}  // namespace instsel
