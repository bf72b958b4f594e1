// The measured distance of two cameras as a term of the cost: r = log(|t_ij| / L) / sigma, rho(|r|).
#pragma once

#include <droid_backends/pixel.h>

namespace droid {

struct BaselineTerm {
  double r;        // log length over what was measured, in standard deviations
  double J[2][6];  // of both poses

  LIE_HD BaselineTerm(const EdgeGeometry& g, double length, double sigma) : J{} {
    const double found = sqrt(g.t[0] * g.t[0] + g.t[1] * g.t[1] + g.t[2] * g.t[2]);
    const double kept = found > 1e-9 ? found : 1e-9;
    r = log(kept / length) / sigma;
    for (int a = 0; a < 3; ++a) J[1][a] = g.t[a] / (kept * kept * sigma);  // a rotation does not change the length
    for (int a = 0; a < 6; ++a)
      for (int b = 0; b < 3; ++b) J[0][a] += g.A[6 * a + b] * J[1][b];
  }
};

}  // namespace droid
