// The device that launches go to, for files that hold no kernels.
#pragma once

#include <string>

namespace gpu {

void use_device(int device);      // for the launches of this host thread that follow; throws where there is none
int device_count();               // 0 without a driver or a device
std::string why_not(int device);  // why kernels cannot run on a device, in CUDA's words; empty: they can

}  // namespace gpu
