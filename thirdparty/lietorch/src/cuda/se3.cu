// The operations of SE3; a file for each group, so that they compile side by side.
#include "rows_kernel.h"

namespace lie::cuda {

template Launch<float> launch_of<SE3<float>>(int);
template Launch<double> launch_of<SE3<double>>(int);

}  // namespace lie::cuda
