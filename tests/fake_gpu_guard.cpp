// Has a PyTorch without CUDA take a tensor's GPU for granted where it would make it the current one, as it does itself
// where it was built for CUDA and no GPU is there.
#include <c10/core/impl/DeviceGuardImplInterface.h>

C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
