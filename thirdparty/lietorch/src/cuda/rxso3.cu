// The operations of RxSO3; a file for each group, so that they compile side by side.
#include "rows_kernel.h"

namespace lie::cuda {

template Launch<float> launch_of<RxSO3<float>>(int);
template Launch<double> launch_of<RxSO3<double>>(int);

}  // namespace lie::cuda
