// The operations of Sim3; a file for each group, so that they compile side by side.
#include "rows_kernel.h"

namespace lie::cuda {

template Launch<float> launch_of<Sim3<float>>(int);
template Launch<double> launch_of<Sim3<double>>(int);

}  // namespace lie::cuda
